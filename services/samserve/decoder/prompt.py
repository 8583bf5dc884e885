"""A prompt: checking it, and turning it into the tokens that SAM's decoder reads. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from samserve.core.arrays import Floats
from samserve.core.errors import InvalidInput
from samserve.core.geometry import Frame, Size, to_frame

BACKGROUND, FOREGROUND = 0.0, 1.0  # labels of points
CORNERS = np.array([2, 3], np.float32)  # labels of a box's corners
PADDING = np.array([-1], np.float32)  # label of a point that stands for nothing

GIVE_ONE = "give at least one point, box or mask"


@dataclass(frozen=True, slots=True)
class PromptInput:
    """A prompt as its caller sent it: not checked yet.

    Attributes:
        points: [N, 2] x, y in source pixels.
        labels: [N], 1 on the object, 0 beside it.
        box: [4] x0, y0, x1, y1 in source pixels, or None.
        mask_input: Low-res logits of an earlier answer, fp16, row-major; empty if there are none.
        multimask: Three candidates instead of one mask; None leaves the choice to the service.
    """

    points: Floats
    labels: Floats
    box: Floats | None = None
    mask_input: bytes = b""
    multimask: bool | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt for one model.

    Attributes:
        points: [N, 2] x, y in source pixels.
        labels: [N], 1 on the object, 0 beside it.
        box: [4] x0, y0, x1, y1 in source pixels, or None.
        mask_input: [L, L] low-res logits of an earlier answer, or None.
        multimask: Three candidates instead of one mask.
    """

    points: Floats
    labels: Floats
    box: Floats | None
    mask_input: Floats | None
    multimask: bool


def read_prompts(inputs: Sequence[PromptInput], low_res: int) -> list[Prompt]:
    """Check everything about the prompts that does not depend on the image.

    Args:
        inputs: The prompts as they were sent.
        low_res: Side of the model's low-res logits.

    Raises:
        InvalidInput: There is no prompt, or one is invalid; the error names the field.
    """
    if not inputs:
        raise InvalidInput("prompts", f"no prompt given; {GIVE_ONE}")
    return [
        read_prompt(prompt, low_res, f"prompts[{index}]") for index, prompt in enumerate(inputs)
    ]


def read_prompt(prompt: PromptInput, low_res: int, field: str) -> Prompt:
    """Check one prompt as `read_prompts` does; `field` is its name in errors."""
    checked = Prompt(
        points=prompt.points,
        labels=prompt.labels,
        box=prompt.box,
        mask_input=_read_logits(prompt.mask_input, low_res, f"{field}.mask_input"),
        multimask=prompt.multimask is not False,
    )
    check_shape(checked, field)
    return checked


def _read_logits(logits: bytes, side: int, field: str) -> Floats | None:
    if not logits:
        return None
    expected = 2 * side * side
    if len(logits) != expected:
        raise InvalidInput(
            field,
            f"{field} has {len(logits):,} bytes; expected {expected:,}: fp16, [{side}, {side}]",
        )
    return np.frombuffer(logits, "<f2").reshape(side, side).astype(np.float32)


def check_shape(prompt: Prompt, field: str) -> None:
    """Check what does not depend on the image.

    Raises:
        InvalidInput: The prompt is empty, a number is not finite, or the box is inverted.
    """
    if not len(prompt.points) and prompt.box is None and prompt.mask_input is None:
        raise InvalidInput(field, f"{field} is empty; {GIVE_ONE}")

    _check_finite(prompt.points, f"{field}.points")
    if prompt.box is not None:
        _check_finite(prompt.box, f"{field}.box")
        x0, y0, x1, y1 = prompt.box
        if x0 >= x1 or y0 >= y1:
            raise InvalidInput(
                f"{field}.box",
                f"{field}.box is empty: x0 must be less than x1, and y0 less than y1",
            )

    if prompt.mask_input is not None:
        _check_finite(prompt.mask_input, f"{field}.mask_input")


def check_all_inside(prompts: Sequence[Prompt], size: Size) -> None:
    """Check that the prompts lie inside an image of this size.

    Raises:
        InvalidInput: One does not; the error names the field.
    """
    for index, prompt in enumerate(prompts):
        check_inside(prompt, size, f"prompts[{index}]")


def check_inside(prompt: Prompt, size: Size, field: str) -> None:
    """Check one prompt as `check_all_inside` does; `field` is its name in errors."""
    _check_inside(prompt.points, size, f"{field}.points")
    if prompt.box is not None:
        _check_inside(prompt.box.reshape(2, 2), size, f"{field}.box")


def _check_finite(values: Floats, field: str) -> None:
    if not np.isfinite(values).all():
        raise InvalidInput(field, f"{field} has a value that is not a finite number")


def _check_inside(points: Floats, size: Size, field: str) -> None:
    if (points < 0).any() or (points > (size.width, size.height)).any():
        raise InvalidInput(
            field, f"{field} is outside the image, which is {size.width} x {size.height} pixels"
        )


def tokens(
    prompt: Prompt, size: Size, frame: Frame, always_padded: bool = False
) -> tuple[Floats, Floats]:
    """Return the points and labels of a prompt's tokens: its points, the box's corners, padding.

    SAM pads points that come without a box; a mask alone has no tokens. SAM 2 pads every prompt,
    and gives a mask alone a point that is padding too.
    Source: SAM's prompt encoder; transformers' Sam2Model.

    Args:
        prompt: The prompt.
        size: Of the source image.
        frame: Of the model.
        always_padded: As SAM 2 does.

    Returns:
        Points [K, 2] in frame pixels, and labels [K].
    """
    corners = np.zeros((0, 2), np.float32) if prompt.box is None else prompt.box.reshape(2, 2)
    points = to_frame(np.concatenate([prompt.points, corners]), size, frame)
    labels = np.concatenate([prompt.labels, CORNERS[: len(corners)]])

    count = _padding(len(prompt.points), prompt.box is not None, always_padded)
    return np.pad(points, ((0, count), (0, 0))), np.concatenate([labels, PADDING.repeat(count)])


def _padding(points: int, box: bool, always: bool) -> int:
    if always:
        return 1 if points or box else 2
    return 1 if points and not box else 0
