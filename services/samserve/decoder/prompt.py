"""A prompt: checking it, and turning it into the tokens SAM's decoder reads. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samserve.core.errors import InvalidInput
from samserve.core.geometry import Frame, Size, to_frame

Floats = NDArray[np.float32]

BACKGROUND, FOREGROUND = 0.0, 1.0
CORNERS, PADDING = np.array([2, 3], np.float32), np.array([-1], np.float32)


@dataclass(frozen=True, slots=True)
class Prompt:
    """points: [N, 2] x, y source pixels; labels: [N], 1 on the object, 0 beside it; box: [4] x0, y0, x1, y1 or None;
    mask_input: [L, L] low-res logits of a former answer or None; multimask: three candidates instead of one mask.
    """

    points: Floats
    labels: Floats
    box: Floats | None
    mask_input: Floats | None
    multimask: bool


def check_prompts(prompts: list[Prompt], size: Size) -> None:
    """Raise InvalidInput, naming the field, for a prompt that means nothing on an image of this size."""
    if not prompts:
        raise InvalidInput("prompts", "there is no prompt: give at least one point, box or mask")
    for index, prompt in enumerate(prompts):
        check_prompt(prompt, size, f"prompts[{index}]")


def check_prompt(prompt: Prompt, size: Size, field: str) -> None:
    """Raise InvalidInput, naming what of `field` to mend, for a prompt that means nothing on an image of this size."""
    if not len(prompt.points) and prompt.box is None and prompt.mask_input is None:
        raise InvalidInput(field, f"{field} is empty: give at least one point, box or mask")
    _check_inside(prompt.points, size, f"{field}.points")
    if prompt.box is not None:
        _check_inside(prompt.box.reshape(2, 2), size, f"{field}.box")
        x0, y0, x1, y1 = prompt.box
        if x0 >= x1 or y0 >= y1:
            raise InvalidInput(
                f"{field}.box",
                f"{field}.box is empty: x0 must be less than x1, and y0 less than y1",
            )
    if prompt.mask_input is not None and not np.isfinite(prompt.mask_input).all():
        raise InvalidInput(
            f"{field}.mask_input", f"{field}.mask_input holds a value that is not a finite number"
        )


def _check_inside(points: Floats, size: Size, field: str) -> None:
    if not np.isfinite(points).all():
        raise InvalidInput(field, f"{field} holds a coordinate that is not a finite number")
    if (points < 0).any() or (points > (size.width, size.height)).any():
        raise InvalidInput(
            field, f"{field} lies outside the image, which is {size.width} x {size.height} pixels"
        )


def tokens(
    prompt: Prompt, size: Size, frame: Frame, always_padded: bool = False
) -> tuple[Floats, Floats]:
    """Points [K, 2] in frame pixels and labels [K]: the clicks, the box's corners, the padding.

    SAM pads points that come without a box; a mask alone has no tokens. SAM 2 (always_padded) pads every prompt, and a
    mask alone comes with a point that is padding too. Source: SAM's prompt encoder; transformers' Sam2Model.
    """
    corners = np.zeros((0, 2), np.float32) if prompt.box is None else prompt.box.reshape(2, 2)
    placed = to_frame(np.concatenate([prompt.points, corners]), size, frame)
    labels = np.concatenate([prompt.labels, CORNERS[: len(corners)]])
    count = _padding(len(prompt.points), prompt.box is not None, always_padded)
    return np.pad(placed, ((0, count), (0, 0))), np.concatenate([labels, PADDING.repeat(count)])


def _padding(points: int, box: bool, always: bool) -> int:
    if always:
        return 1 if points or box else 2
    return 1 if points and not box else 0
