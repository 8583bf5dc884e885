"""How well masks from a coded embedding agree with those from the fp32 one: for the parity tests and the benchmark."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto
from samserve.core.geometry import Size
from samserve.core.image import FramedImage
from samserve.core.runs import dense
from samserve.decoder.cores import Cores
from samserve.decoder.masks import outline
from samserve.decoder.prompt import Prompt, tokens
from samserve.decoder.transformer import Transformer
from samserve.models.bundle import Bundle

FRAME, SIDE = 1024, 64
Floats = NDArray[np.float32]
Masks = list[NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Sample:
    """An image's fp32 embedding [256, 64, 64], prompts on it, and the masks that these give."""

    size: Size
    embedding: Floats
    prompts: list[Prompt]
    masks: list[Masks]


class PlainEncoder:
    """A bundle's encoder without the rounding to fp16 at its end."""

    def __init__(self, bundle: Bundle) -> None:
        model = onnx.load(str(bundle.encoder))
        rounding = model.graph.node.pop()
        assert rounding.op_type == "Cast"
        model.graph.output[0].name = rounding.input[0]
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def embed(self, image: FramedImage) -> Floats:
        valid = np.array([[image.valid.height, image.valid.width]], np.int32)
        tensor: Floats = self._session.run(None, {"image": image.pixels[None], "valid": valid})[0][0]
        return tensor


def draw_prompts(rng: np.random.Generator, size: Size, count: int) -> list[Prompt]:
    """In turn: a click, several, a box, a click and a box, and a click asking for the single mask."""
    sides = np.array([size.width, size.height])
    drawn = []
    for kind in range(count):
        kind %= 5
        clicks = {1: int(rng.integers(2, 5)), 2: 0}.get(kind, 1)
        points = (rng.uniform(0.05, 0.95, (clicks, 2)) * sides).astype(np.float32)
        labels = np.ones(clicks, np.float32)
        labels[1:] = rng.integers(0, 2, max(clicks - 1, 0))
        corner = rng.uniform(0, 0.7, 2)
        corners = np.concatenate([corner, np.minimum(corner + rng.uniform(0.1, 0.6, 2), 1)]).reshape(2, 2) * sides
        box = corners.reshape(4).astype(np.float32) if kind in (2, 3) else None
        drawn.append(Prompt(points, labels, box, None, multimask=kind != 4))
    return drawn


def sample(transformer: Transformer, size: Size, embedding: Floats, seed: int, count: int) -> Sample:
    prompts = draw_prompts(np.random.default_rng(seed), size, count)
    return Sample(size, embedding, prompts, masks(transformer, size, embedding, prompts))


def masks(transformer: Transformer, size: Size, embedding: NDArray[np.floating], prompts: list[Prompt]) -> list[Masks]:
    """Of each prompt all candidates at the image's size, in the model's order: a change of rank is no change of mask."""
    cores = Cores(SIDE**2)
    image = transformer.prepare(np.ascontiguousarray(embedding, np.float32), cores)
    answers = []
    for prompt in prompts:
        points, labels = tokens(prompt, size, FRAME)
        wanted = [1, 2, 3] if prompt.multimask else [0]
        logits, _ = transformer.decode(image, points, labels, None, wanted, cores)
        answers.append([dense(outline(each, size, FRAME)) for each in logits])
    return answers


def overlaps(transformer: Transformer, one: Sample, coded: NDArray[np.floating]) -> list[float]:
    """IoU of each mask from `coded` with the sample's; two empty ones agree."""
    pairs = zip(one.masks, masks(transformer, one.size, coded, one.prompts), strict=True)
    return [_iou(a, b) for wanted, got in pairs for a, b in zip(wanted, got, strict=True)]


def _iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    either = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / either if either else 1.0
