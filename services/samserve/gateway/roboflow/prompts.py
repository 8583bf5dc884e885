"""Turns Roboflow's prompts into ours. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from samserve.client import Box, Click, Prompt
from samserve.core.errors import InvalidInput
from samserve.core.limits import DEFAULT_PROMPTS, check_count
from samserve.gateway.roboflow.mask_input import read_mask_input
from samserve.gateway.roboflow.requests import CentredBox, SamSegmentRequest, SegmentRequest

MAX_PROMPTS = DEFAULT_PROMPTS  # of a call
OFF, ON, FIRST_CORNER, SECOND_CORNER, PADDING = 0, 1, 2, 3, -1  # SAM's labels of points


def read_prompts(body: SegmentRequest) -> list[Prompt]:
    """Return one prompt for each of the caller's, in order.

    Raises:
        InvalidInput: There is none, or too many.
    """
    given = (body.prompts.prompts if body.prompts else None) or []
    if not given:
        raise InvalidInput("prompts", "prompts: none given; send at least one point or box")
    check_count(len(given), MAX_PROMPTS, "prompts", "prompts")

    return [
        Prompt(
            points=[Click(point.x, point.y, point.positive) for point in prompt.points or ()],
            box=_corners(prompt.box) if prompt.box else None,
            multimask=body.multimask_output,
        )
        for prompt in given
    ]


def read_sam_prompts(body: SamSegmentRequest) -> list[Prompt]:
    """Return the prompts whose masks are the four of SAM's exported decoder: one, and three more.

    Raises:
        InvalidInput: The prompt is empty, or a label or the mask is invalid.
    """
    if body.embeddings is not None:
        raise InvalidInput(
            "embeddings", "embeddings: not supported; send the image, or an image_id"
        )
    points, labels = body.point_coords, body.point_labels
    if len(points) != len(labels):
        raise InvalidInput(
            "point_labels", f"point_labels: {len(labels)} labels for {len(points)} points"
        )
    mask_input = _mask_input(body)
    box = _labelled_box(points, labels)
    clicks = [
        Click(x, y, label == ON)
        for (x, y), label in zip(points, labels, strict=True)
        if label in (ON, OFF)
    ]
    if not (clicks or box or mask_input):
        raise InvalidInput(
            "point_coords", "point_coords: no point has a label from 0 to 3; send at least one"
        )
    return [Prompt(clicks, box, mask_input, multimask) for multimask in (False, True)]


def _mask_input(body: SamSegmentRequest) -> bytes:
    if not body.has_mask_input:
        return b""
    if not body.mask_input:
        raise InvalidInput(
            "mask_input", "mask_input: missing; logits of earlier calls are not kept here"
        )
    return read_mask_input(body.mask_input, body.mask_input_format)


def _labelled_box(points: Sequence[tuple[float, float]], labels: Sequence[float]) -> Box | None:
    """Return the box of two points with the labels of corners, or none."""
    for label in labels:
        if label not in (OFF, ON, FIRST_CORNER, SECOND_CORNER, PADDING):
            raise InvalidInput(
                "point_labels", f"point_labels: unknown label {label:g}; expected -1, 0, 1, 2 or 3"
            )
    corners = [
        [point for point, label in zip(points, labels, strict=True) if label == corner]
        for corner in (FIRST_CORNER, SECOND_CORNER)
    ]
    if not any(corners):
        return None
    if [len(each) for each in corners] != [1, 1]:
        raise InvalidInput(
            "point_labels", "point_labels: a box has one point of label 2 and one of label 3"
        )
    ((x0, y0),), ((x1, y1),) = corners
    return Box(x0, y0, x1, y1)


def _corners(box: CentredBox) -> Box:
    half_width, half_height = box.width / 2, box.height / 2
    return Box(box.x - half_width, box.y - half_height, box.x + half_width, box.y + half_height)
