"""The graphs of each family, and the shapes that its embeddings have."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from samserve.export.checkpoints.checkpoint import SAM, SAM2, SAM_HQ
from samserve.export.graphs.decoder import DecoderGraph
from samserve.export.graphs.sam2 import Sam2DecoderGraph, Sam2Encoder
from samserve.export.graphs.sam_hq import SamHqDecoderGraph, SamHqEncoder
from samserve.export.graphs.vit import VitEncoder
from samserve.export.onnx_files import Shape

ENCODERS: dict[str, type[nn.Module]] = {SAM: VitEncoder, SAM2: Sam2Encoder, SAM_HQ: SamHqEncoder}
DECODERS: dict[str, type[DecoderGraph]] = {
    SAM: DecoderGraph,
    SAM2: Sam2DecoderGraph,
    SAM_HQ: SamHqDecoderGraph,
}


@dataclass(frozen=True, slots=True)
class Graphs:
    """embedding: shapes of the tensors by name, in the order in which the encoder gives them."""

    encoder: nn.Module
    decoder: DecoderGraph
    embedding: dict[str, Shape]


def graphs_of(family: str, model: PreTrainedModel) -> Graphs:
    """What is exported of one of transformers' models; it shares the model's weights."""
    return Graphs(
        ENCODERS[family](model),
        DECODERS[family](model.prompt_encoder, model.mask_decoder),
        embedding_shapes(family, model),
    )


def embedding_shapes(family: str, model: PreTrainedModel) -> dict[str, Shape]:
    """[channels, rows, columns] of each tensor of an image's embedding."""
    width, cells = model.prompt_encoder.hidden_size, model.prompt_encoder.image_embedding_size[0]
    shapes: dict[str, Shape] = {"embedding": (width, cells, cells)}
    if family == SAM2:
        shapes["fine_1"] = (width // 4, 2 * cells, 2 * cells)
        shapes["fine_0"] = (width // 8, 4 * cells, 4 * cells)
    if family == SAM_HQ:
        shapes["hq"] = (width // 8, 4 * cells, 4 * cells)
    return shapes
