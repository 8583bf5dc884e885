"""An image that the service has embedded, and the masks of prompts on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from samserve.client import Click, Mask, Prompt
from samserve.client.image import ImageInput, read_bytes
from samserve.core.arrays import Array, Bools, Floats
from samserve.core.geometry import Size
from samserve.sdk.model import RemoteSam
from samserve.sdk.upscale import fill_small_regions, upscale

ROUNDING = 0.01  # pixels that a point may be outside the image after it was scaled twice
MOST_LOGIT = 65504.0  # the largest number of fp16


@dataclass(frozen=True, slots=True)
class Prompts:
    """B prompts on one image, in its pixels.

    Attributes:
        points: [B, N, 2], (x, y), or None.
        labels: [B, N], 1 on the object and 0 beside it, or None.
        boxes: [B, 4], x0, y0, x1, y1, or None.
        logits: [B, L, L], low-res logits to refine, or None.
    """

    points: Array | None = None
    labels: Array | None = None
    boxes: Array | None = None
    logits: Array | None = None

    def __len__(self) -> int:
        given = (self.points, self.boxes, self.logits)
        return max((len(each) for each in given if each is not None), default=1)


@dataclass(frozen=True, slots=True)
class Cut:
    """How logits become masks.

    Attributes:
        threshold: Logits above it are the mask.
        hole: Holes of up to so many low-res cells are filled.
        island: Islands of up to so many low-res cells are removed.
    """

    threshold: float = 0.0
    hole: float = 0.0
    island: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The masks of B prompts, C each, in the decoder's order.

    Attributes:
        answers: Of each prompt its masks.
        low_res: [B, C, L, L].
        predicted_iou: [B, C].
    """

    answers: list[list[Mask]]
    low_res: Floats
    predicted_iou: Floats


class RemoteImage:
    """An image that the service has embedded."""

    def __init__(self, model: RemoteSam, image: ImageInput, shown: Size | None = None) -> None:
        """Send an image.

        Args:
            model: To embed it with.
            image: Pixels uint8 [H, W, 3] RGB, or what else `Client` takes.
            shown: Size of masks; None for the image's.

        Raises:
            InvalidInput: The image is invalid.
        """
        self._model = model
        self._data = read_bytes(image)
        self.size = model.client.embed(self._data).size
        self.shown = shown or self.size

    def predict(self, prompts: Prompts, multimask: bool) -> Prediction:
        """Return the masks of all prompts.

        Raises:
            InvalidInput: A prompt is invalid.
        """
        answer = self._model.client.predict(
            self._data, list(self._written(prompts, multimask)), low_res_logits=True
        )
        answers = [sorted(masks, key=lambda mask: mask.candidate) for masks in answer.results]
        logits = [[mask.low_res_array() for mask in masks] for masks in answers]
        ious = [[mask.predicted_iou for mask in masks] for masks in answers]
        return Prediction(answers, np.array(logits, np.float32), np.array(ious, np.float32))

    def logits(self, prediction: Prediction, cut: Cut) -> Floats:
        """Return the logits at the size of masks, [B, C, H, W]."""
        low_res = prediction.low_res
        if cut.hole > 0 or cut.island > 0:
            flat = low_res.reshape(-1, *low_res.shape[-2:])
            filled = [
                fill_small_regions(each, cut.threshold, cut.hole, cut.island) for each in flat
            ]
            low_res = np.stack(filled).reshape(low_res.shape)
        return upscale(low_res, self.shown, self._model.mask_frame)

    def masks(self, prediction: Prediction, cut: Cut) -> Bools:
        """Return the masks, [B, C, H, W]."""
        if cut != Cut() or self.shown != self.size:
            above: Bools = self.logits(prediction, cut) > cut.threshold
            return above
        return np.array([[mask.array() for mask in masks] for masks in prediction.answers])

    def tensors(self) -> dict[str, Floats]:
        """Return the embedding's tensors by name, [1, C, H, W] each."""
        tensors = self._model.client.embedding(self._data).tensors
        return {name: tensor.astype(np.float32)[None] for name, tensor in tensors.items()}

    def _written(self, prompts: Prompts, multimask: bool) -> Iterator[Prompt]:
        size = np.array([self.size.width, self.size.height], float)
        for index in range(len(prompts)):
            clicks: list[Click] = []
            if prompts.points is not None and prompts.labels is not None:
                points = _pull_inside(np.asarray(prompts.points[index], float), size)
                clicks = [
                    Click(float(x), float(y), label)
                    for (x, y), label in zip(points, prompts.labels[index].tolist(), strict=True)
                ]

            box = None
            if prompts.boxes is not None:
                box = _cut(np.reshape(prompts.boxes[index], (2, 2)), size).ravel()

            logits: Array | bytes = b""
            if prompts.logits is not None:
                bounded = np.clip(prompts.logits[index], -MOST_LOGIT, MOST_LOGIT)
                logits = bounded.astype(np.float16)
            yield Prompt(clicks, box, logits, multimask)


def _pull_inside(points: Array, size: Array) -> Array:
    """Move points that rounding has put outside the image to its edge."""
    inside = np.clip(points, 0, size)
    return np.where(np.abs(points - inside) <= ROUNDING, inside, points)


def _cut(corners: Array, size: Array) -> Array:
    """Cut a box [2, 2] off at the image's edges. One outside stays, so that it is refused."""
    cut = np.clip(corners, 0, size)
    return cut if (cut[0] < cut[1]).all() else corners
