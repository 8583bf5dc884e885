"""How well masks from a coded embedding agree with those from the fp32 one: for the parity tests and the benchmark."""

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
    """An image's fp32 embedding [256, 64, 64], prompts on it, the masks that these give, and which of them is ranked
    first.
    """

    size: Size
    embedding: Floats
    prompts: list[Prompt]
    masks: list[Masks]
    first: list[int]


class PlainEncoder:
    """A bundle's encoder without the rounding to fp16 at its end."""

    def __init__(self, bundle: Bundle) -> None:
        model = onnx.load(str(bundle.encoder))
        rounding = model.graph.node.pop()
        if rounding.op_type != "Cast":
            raise ValueError(
                f"{bundle.encoder} does not end with a cast to fp16 but with {rounding.op_type}"
            )
        model.graph.output[0].name = rounding.input[0]
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )

    def embed(self, image: FramedImage) -> Floats:
        valid = np.array([[image.valid.height, image.valid.width]], np.int32)
        tensor: Floats = self._session.run(None, {"image": image.pixels[None], "valid": valid})[0][
            0
        ]
        return tensor


def draw_prompts(rng: np.random.Generator, labels: NDArray[np.integer], count: int) -> list[Prompt]:
    """On the objects in turn: a click, three clicks, a box, a box and a click, a click that asks for the single mask.

    labels: [H, W], 0 is ground, k the k-th object.
    """
    objects = [labels == label for label in np.unique(labels)[1:]]
    drawn = []
    for number in range(count):
        kind, mask = number % 5, objects[number % len(objects)]
        asked = object_prompt(rng, mask, clicks=(1, 3, 0, 1, 1)[kind], box=kind in (2, 3))
        clicks = asked.labels == FOREGROUND
        box = asked.points[~clicks].reshape(4) if kind in (2, 3) else None
        drawn.append(
            Prompt(asked.points[clicks], asked.labels[clicks], box, None, multimask=kind != 4)
        )
    return drawn


def sample(
    transformer: KernelDecoder,
    labels: NDArray[np.integer],
    embedding: Floats,
    seed: int,
    count: int,
) -> Sample:
    prompts = draw_prompts(np.random.default_rng(seed), labels, count)
    size = Size(labels.shape[1], labels.shape[0])
    logits, ious = zip(*answers(transformer, size, embedding, prompts), strict=True)
    first = [
        int(
            np.argmax(
                [
                    iou * stability_score(each, size, FRAME)
                    for iou, each in zip(*answer, strict=True)
                ]
            )
        )
        for answer in zip(ious, logits, strict=True)
    ]
    return Sample(size, embedding, prompts, [cut(each, size) for each in logits], first)


def answers(
    transformer: KernelDecoder, size: Size, embedding: NDArray[np.floating], prompts: list[Prompt]
) -> list[tuple[Floats, Floats]]:
    """Of each prompt low-res logits and predicted IoUs, in the model's order: a change of rank is no change of mask."""
    threads = ThreadShare(SIDE**2)
    embedded = Embedding(
        "agreement", size, {"embedding": np.ascontiguousarray(embedding, np.float32)}
    )
    image = ReadyImage(embedded, transformer.prepare(embedded, threads))
    given = []
    for prompt in prompts:
        points, labels = tokens(prompt, size, FRAME)
        wanted = [1, 2, 3] if prompt.multimask else [0]
        request = DecodeRequest(points, labels, None, wanted)
        logits, ious = transformer.decode(image, request, threads)
        given.append((logits, ious[wanted]))
    return given


def cut(logits: Floats, size: Size) -> Masks:
    return [dense(outline(each, size, FRAME)) for each in logits]


def overlaps(
    transformer: KernelDecoder, one: Sample, coded: NDArray[np.floating]
) -> list[list[float]]:
    """Of each prompt the IoU of each mask from `coded` with the sample's; two empty ones agree."""
    pairs = zip(one.masks, answers(transformer, one.size, coded, one.prompts), strict=True)
    return [
        [_iou(a, b) for a, b in zip(wanted, cut(got, one.size), strict=True)]
        for wanted, (got, _) in pairs
    ]


def _iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    either = np.count_nonzero(one | other)
    return float(np.count_nonzero(one & other) / either) if either else 1.0
