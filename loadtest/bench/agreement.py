"""Agreement of masks from a packed embedding with those from the fp32 one.

For the parity tests and loadtest.bench.codec.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto
from samserve.bundles.bundle import Bundle
from samserve.core.embedding import Embedding
from samserve.core.geometry import Frame, Size
from samserve.core.image import FramedImage
from samserve.core.runs import dense
from samserve.decoder.masks.outline import outline
from samserve.decoder.prompt import Prompt, tokens
from samserve.decoder.sam.backend import DecodeRequest
from samserve.decoder.sam.kernel_decoder import KernelDecoder
from samserve.decoder.sam.prepared_image import ReadyImage
from samserve.decoder.sam.stability import stability_score
from samserve.decoder.sam.threads import ThreadShare
from samserve.training.prompts import FOREGROUND
from samserve.training.prompts import prompt as object_prompt

FRAME, SIDE = Frame(1024), 64
Floats = NDArray[np.float32]
Masks = list[NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Sample:
    """An image with prompts and their reference masks.

    Attributes:
        size: Size of the image.
        embedding: The fp32 embedding, [256, 64, 64].
        prompts: Prompts on its objects.
        masks: For each prompt, the masks from this embedding.
        first: For each prompt, the index of the mask ranked first.
    """

    size: Size
    embedding: Floats
    prompts: list[Prompt]
    masks: list[Masks]
    first: list[int]


class PlainEncoder:
    """A bundle's encoder without the final rounding to fp16."""

    def __init__(self, bundle: Bundle) -> None:
        model = onnx.load(str(bundle.encoder))
        rounding = model.graph.node.pop()
        if rounding.op_type != "Cast":
            raise ValueError(
                f"{bundle.encoder} ends with {rounding.op_type}; expected a cast to fp16"
            )

        output = model.graph.output[0]
        output.name = rounding.input[0]
        output.type.tensor_type.elem_type = TensorProto.FLOAT
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )

    def embed(self, image: FramedImage) -> Floats:
        valid = np.array([[image.valid.height, image.valid.width]], np.int32)
        outputs = self._session.run(None, {"image": image.pixels[None], "valid": valid})
        tensor: Floats = outputs[0][0]
        return tensor


def draw_prompts(rng: np.random.Generator, labels: NDArray[np.integer], count: int) -> list[Prompt]:
    """Draw prompts on the objects in turn.

    The kinds alternate: a click, three clicks, a box, a box and a click, and a click that asks for
    a single mask.

    Args:
        rng: The random generator.
        labels: [H, W]; 0 is background, k the k-th object.
        count: Number of prompts.
    """
    objects = [labels == label for label in np.unique(labels)[1:]]
    prompts = []
    for number in range(count):
        kind, mask = number % 5, objects[number % len(objects)]
        drawn = object_prompt(rng, mask, clicks=(1, 3, 0, 1, 1)[kind], box=kind in (2, 3))

        clicks = drawn.labels == FOREGROUND
        box = drawn.points[~clicks].reshape(4) if kind in (2, 3) else None
        prompts.append(
            Prompt(drawn.points[clicks], drawn.labels[clicks], box, None, multimask=kind != 4)
        )
    return prompts


def sample(
    decoder: KernelDecoder,
    labels: NDArray[np.integer],
    embedding: Floats,
    seed: int,
    count: int,
) -> Sample:
    """Draw prompts on an image and decode their reference masks.

    Args:
        decoder: The decoder.
        labels: [H, W]; 0 is background, k the k-th object.
        embedding: The image's fp32 embedding.
        seed: Seed of the prompts.
        count: Number of prompts.
    """
    prompts = draw_prompts(np.random.default_rng(seed), labels, count)
    size = Size(labels.shape[1], labels.shape[0])
    decoded = answers(decoder, size, embedding, prompts)

    first = []
    for logits, ious in decoded:
        ranks = [
            iou * stability_score(each, size, FRAME) for iou, each in zip(ious, logits, strict=True)
        ]
        first.append(int(np.argmax(ranks)))

    masks = [to_masks(logits, size) for logits, _ in decoded]
    return Sample(size, embedding, prompts, masks, first)


def answers(
    decoder: KernelDecoder, size: Size, embedding: NDArray[np.floating], prompts: list[Prompt]
) -> list[tuple[Floats, Floats]]:
    """Decode prompts; return the low-res logits and predicted IoUs of each.

    They are in the model's order: a change of rank is not a change of a mask.
    """
    threads = ThreadShare(SIDE**2)
    tensors = {"embedding": np.ascontiguousarray(embedding, np.float32)}
    embedded = Embedding("agreement", size, tensors)
    image = ReadyImage(embedded, decoder.prepare(embedded, threads))

    decoded = []
    for prompt in prompts:
        points, labels = tokens(prompt, size, FRAME)
        wanted = [1, 2, 3] if prompt.multimask else [0]
        request = DecodeRequest(points, labels, None, wanted)
        logits, ious = decoder.decode(image, request, threads)
        decoded.append((logits, ious[wanted]))
    return decoded


def to_masks(logits: Floats, size: Size) -> Masks:
    return [dense(outline(each, size, FRAME)) for each in logits]


def overlaps(
    decoder: KernelDecoder, reference: Sample, embedding: NDArray[np.floating]
) -> list[list[float]]:
    """For each prompt, the IoU of each mask from `embedding` with the reference mask.

    Two empty masks agree.
    """
    decoded = answers(decoder, reference.size, embedding, reference.prompts)
    pairs = zip(reference.masks, decoded, strict=True)
    return [
        [_iou(a, b) for a, b in zip(expected, to_masks(logits, reference.size), strict=True)]
        for expected, (logits, _) in pairs
    ]


def _iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    union = np.count_nonzero(first | second)
    return float(np.count_nonzero(first & second) / union) if union else 1.0
