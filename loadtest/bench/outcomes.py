"""IoUs of a model's masks on one image, asked through the whole stack."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from samserve.client import Box, Click, Client, Mask, Prompt
from samserve.training.prompts import deepest

Truth = NDArray[np.bool_]
Corners = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Subject:
    """An image and the masks to ask for: file content, pixels [H, W, 3], truths [H, W] each.

    boxes: [2, 2] corners each, inside the image.
    """

    source: str
    data: bytes
    image: NDArray[np.uint8]
    truths: list[Truth]
    boxes: list[Corners]


@dataclass(frozen=True, slots=True)
class Outcome:
    """IoUs of one mask's answers, and the data to draw the first answer.

    Attributes:
        first: one click, mask ranked first.
        best: one click, best of three.
        box: mask ranked first.
        box_single: the single mask.
        corrected: after one corrective click with logits.
        thrice: after two.
        predicted: predicted IoU of the first answer.
    """

    source: str
    first: float
    best: float
    box: float
    box_single: float
    corrected: float
    thrice: float
    predicted: float
    image: NDArray[np.uint8]
    truth: Truth
    answer: Truth
    click: tuple[float, float]


def iou(one: Truth, other: Truth) -> float:
    """Intersection over union of two masks."""
    return float((one & other).sum() / max(1, (one | other).sum()))


def measure(client: Client, subject: Subject) -> list[Outcome]:
    """Ask for every mask of one image."""
    truths, count = subject.truths, len(subject.truths)
    if not count:
        return []
    clicks = [[Click(*deepest(truth))] for truth in truths]
    boxes = [_box(corners) for corners in subject.boxes]
    asked = [Prompt(points) for points in clicks]
    asked += [Prompt(box=box) for box in boxes]
    asked += [Prompt(box=box, multimask=False) for box in boxes]
    answers = client.predict(subject.data, asked, low_res_logits=True).results
    by_click, by_box, by_box_single = (answers[n * count : (n + 1) * count] for n in range(3))

    corrected = _correct(client, subject, clicks, [masks[0] for masks in by_click])
    thrice = _correct(client, subject, clicks, corrected)
    return [
        Outcome(
            source=subject.source,
            first=iou(truth, by_click[n][0].array()),
            best=max(iou(truth, mask.array()) for mask in by_click[n]),
            box=iou(truth, by_box[n][0].array()),
            box_single=iou(truth, by_box_single[n][0].array()),
            corrected=iou(truth, corrected[n].array()),
            thrice=iou(truth, thrice[n].array()),
            predicted=by_click[n][0].predicted_iou,
            image=subject.image,
            truth=truth,
            answer=by_click[n][0].array(),
            click=deepest(truth),
        )
        for n, truth in enumerate(truths)
    ]


def _correct(
    client: Client, subject: Subject, clicks: list[list[Click]], former: list[Mask]
) -> list[Mask]:
    """The masks ranked first after one more click each, which `clicks` gain."""
    for points, truth, mask in zip(clicks, subject.truths, former, strict=True):
        points.append(corrective(truth, mask))
    asked = [
        Prompt(points, mask_input=mask.low_res_logits)
        for points, mask in zip(clicks, former, strict=True)
    ]
    return [masks[0] for masks in client.predict(subject.data, asked, low_res_logits=True).results]


def corrective(truth: Truth, answer: Mask) -> Click:
    """The click that a person would make next: in the middle of the largest error."""
    wrong = truth ^ answer.array()
    x, y = deepest(wrong if wrong.any() else truth)
    return Click(x, y, on=bool(truth[int(y), int(x)]))


def _box(corners: Corners) -> Box:
    (x0, y0), (x1, y1) = corners.tolist()
    return Box(x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))
