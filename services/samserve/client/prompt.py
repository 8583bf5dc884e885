"""Prompts: clicks, boxes and rough masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from samserve.core.arrays import Array, Halves
from samserve.core.errors import InvalidInput
from samserve.core.geometry import Size
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import types_pb2 as types


@dataclass(frozen=True, slots=True)
class Click:
    """A point in pixels of the oriented image.

    Attributes:
        x: Pixels from the left edge.
        y: Pixels from the top edge.
        on: Whether the point is on the object; False marks the background.
    """

    x: float
    y: float
    on: bool = True


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels of the oriented image; x1 and y1 are exclusive."""

    x0: float
    y0: float
    x1: float
    y1: float


# A click, (x, y), or (x, y, label): 1 on the object, 0 on the background. An array [N, 2] or
# [N, 3] is a sequence of such points.
Points: TypeAlias = Sequence[Click | Sequence[float]] | Array
BoxInput: TypeAlias = Box | Sequence[float] | Array  # x0, y0, x1, y1
Logits: TypeAlias = bytes | bytearray | memoryview | Halves


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt for one object.

    Attributes:
        points: Clicks on the object and on the background, as `Click`, (x, y) or (x, y, label).
        box: A rectangle around the object, as `Box` or (x0, y0, x1, y1).
        mask_input: Low-res logits of an earlier mask to refine: its `low_res_logits` as bytes,
            or a float16 array [256, 256].
        multimask: True for three candidate masks, False for one mask; None lets the service choose.
    """

    points: Points = ()
    box: BoxInput | None = None
    mask_input: Logits = b""
    multimask: bool | None = True


def write_prompts(prompts: Iterable[Prompt], size: Size | None = None) -> list[pb.Prompt]:
    """Convert to the proto.

    Args:
        prompts: One prompt for each object.
        size: Of the image, to cut boxes off at its edges; None leaves them as they are.

    Raises:
        InvalidInput: A value has the wrong type; the error names the field.
    """
    return [write_prompt(prompt, f"prompts[{index}]", size) for index, prompt in enumerate(prompts)]


def write_prompt(prompt: Prompt, field: str = "prompt", size: Size | None = None) -> pb.Prompt:
    """Convert one prompt as `write_prompts` does; `field` is its name in errors."""
    if not isinstance(prompt, Prompt):
        raise _wrong(field, prompt, "a Prompt")

    box = None if prompt.box is None else read_box(prompt.box, f"{field}.box")
    if box is not None and size is not None:
        box = _cut(box, size)

    return pb.Prompt(
        points=_write_points(prompt.points, f"{field}.points"),
        box=None if box is None else types.Box(x0=box.x0, y0=box.y0, x1=box.x1, y1=box.y1),
        mask_input=_write_logits(prompt.mask_input),
        multimask=_read_multimask(prompt.multimask, f"{field}.multimask"),
    )


def _write_points(points: Any, field: str) -> list[types.Point]:
    if isinstance(points, (Click, str, bytes)) or not isinstance(points, Iterable):
        raise _wrong(field, points, "a sequence of points")
    return [_write_point(point, f"{field}[{index}]") for index, point in enumerate(points)]


def _write_point(point: Any, field: str) -> types.Point:
    if isinstance(point, Click):
        x, y, on = point.x, point.y, point.on
    else:
        x, y, *rest = _numbers(point, (2, 3), field, "a Click, (x, y) or (x, y, label)")
        on = rest[0] if rest else True

    if isinstance(on, (str, bytes)) or on not in (0, 1):
        raise InvalidInput(
            field,
            f"{field}: label {on!r}; expected True or 1 on the object, False or 0 beside it",
        )
    label = types.POINT_LABEL_FOREGROUND if on else types.POINT_LABEL_BACKGROUND
    return types.Point(x=_number(x, f"{field}.x"), y=_number(y, f"{field}.y"), label=label)


def read_box(box: Any, field: str) -> Box:
    """Read a box; `field` is its name in errors. Raises InvalidInput."""
    if not isinstance(box, Box):
        box = Box(*_numbers(box, (4,), field, "a Box or (x0, y0, x1, y1)"))
    return Box(
        _number(box.x0, f"{field}.x0"),
        _number(box.y0, f"{field}.y0"),
        _number(box.x1, f"{field}.x1"),
        _number(box.y1, f"{field}.y1"),
    )


def _cut(box: Box, size: Size) -> Box:
    """Cut a box off at the image's edges. One wholly outside stays, so that it is refused."""
    cut = Box(
        max(box.x0, 0.0),
        max(box.y0, 0.0),
        min(box.x1, float(size.width)),
        min(box.y1, float(size.height)),
    )
    return cut if cut.x0 < cut.x1 and cut.y0 < cut.y1 else box


def _numbers(value: Any, counts: tuple[int, ...], field: str, expected: str) -> list[Any]:
    """The items of a tuple, list or array of so many."""
    if isinstance(value, (str, bytes, dict)) or not isinstance(value, Iterable):
        raise _wrong(field, value, expected)
    items = list(value)
    if len(items) not in counts:
        raise InvalidInput(field, f"{field}: {len(items)} values; expected {expected}")
    return items


def _number(value: Any, field: str) -> float:
    if isinstance(value, (str, bytes)):
        raise _wrong(field, value, "a number")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as problem:
        raise _wrong(field, value, "a number") from problem


def _read_multimask(multimask: Any, field: str) -> bool | None:
    if multimask is None or isinstance(multimask, (bool, np.bool_)):
        return None if multimask is None else bool(multimask)
    raise _wrong(field, multimask, "True, False or None")


def _write_logits(logits: Any) -> bytes:
    """Low-res logits as little-endian fp16, row-major."""
    if isinstance(logits, (bytes, bytearray, memoryview)):
        return bytes(logits)
    if not isinstance(logits, np.ndarray):
        raise _wrong("mask_input", logits, "bytes or an array float16 [256, 256]")
    if logits.dtype != np.float16 or logits.ndim != 2:
        raise InvalidInput(
            "mask_input",
            f"invalid mask_input: {logits.dtype} {list(logits.shape)}; expected float16 [256, 256]",
        )
    return logits.astype("<f2", copy=False).tobytes()


def _wrong(field: str, value: object, expected: str) -> InvalidInput:
    shown = repr(value)
    if len(shown) > 40:
        shown = shown[:40] + "..."
    return InvalidInput(field, f"{field}: {shown} is a {type(value).__name__}; expected {expected}")
