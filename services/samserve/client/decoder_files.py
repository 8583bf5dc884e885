"""What a caller needs to compute a model's decoder by itself."""

from __future__ import annotations

from dataclasses import dataclass

from samserve.v1 import segmentation_pb2 as pb


@dataclass(frozen=True, slots=True)
class DecoderDescription:
    """How a model's decoder is computed; the proto explains each field.

    Attributes:
        model: Name of the model.
        version: That is served.
        versions: Whose embeddings it decodes.
        digest: SHA-256 of the weights; empty if a caller cannot compute the decoder.
        bytes: Of the weights; 0 if a caller cannot compute the decoder.
        note: Why a caller cannot compute it.
        frame: Side of the square that images are resized into, in pixels.
        stretch: Whether images are stretched to the whole square.
        low_res: Side of the low-res logits.
        embedding: Shapes of an embedding's tensors by name.
        token_weights: Weights whose rows precede the tokens of a prompt.
        fine_maps: Tensors of the embedding that are finer than the first.
        norm_epsilon: Of the transformer's LayerNorms.
        sigmoid_iou: Whether the predicted IoUs pass through a sigmoid.
        always_padded: Whether every prompt gets a padding point.
        dynamic_single_mask: Whether the best other mask replaces an unstable single mask.
        single_mask: When a single mask is stable: `delta` in logits, and `threshold`.
    """

    model: str
    version: str
    versions: list[str]
    digest: str
    bytes: int
    note: str
    frame: int
    stretch: bool
    low_res: int
    embedding: dict[str, list[int]]
    token_weights: list[str]
    fine_maps: list[str]
    norm_epsilon: float
    sigmoid_iou: bool
    always_padded: bool
    dynamic_single_mask: bool
    single_mask: dict[str, float]


def read_description(message: pb.DecoderDescription) -> DecoderDescription:
    """Convert from the proto."""
    return DecoderDescription(
        model=message.model,
        version=message.version,
        versions=list(message.versions),
        digest=message.digest,
        bytes=message.bytes,
        note=message.note,
        frame=message.frame,
        stretch=message.stretch,
        low_res=message.low_res,
        embedding={tensor.name: list(tensor.shape) for tensor in message.embedding},
        token_weights=list(message.token_weights),
        fine_maps=list(message.fine_maps),
        norm_epsilon=message.norm_epsilon,
        sigmoid_iou=message.sigmoid_iou,
        always_padded=message.always_padded,
        dynamic_single_mask=message.dynamic_single_mask,
        single_mask={
            "delta": message.single_mask_delta,
            "threshold": message.single_mask_threshold,
        },
    )
