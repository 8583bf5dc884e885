"""Turns the marks of X-AnyLabeling's window into prompts. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from samserve.client import Box, Click, Prompt
from samserve.core.errors import InvalidInput
from samserve.core.limits import DEFAULT_PROMPTS, check_count
from samserve.gateway.xanylabeling.messages import Mark

MAX_RECTANGLES = DEFAULT_PROMPTS  # of a request, each an object


def read_marks(marks: Sequence[Mark]) -> list[Prompt]:
    """Return one prompt for each rectangle, and one for the points that belong to none.

    With one rectangle all points belong to it; with several, a point belongs to those that it lies
    in.

    Raises:
        InvalidInput: There are no marks on an object, too many, or invalid ones.
    """
    boxes = [_box(mark, index) for index, mark in enumerate(marks) if mark.type == "rectangle"]
    check_count(len(boxes), MAX_RECTANGLES, "params.marks", "rectangles")
    clicks = [
        Click(mark.data[0], mark.data[1], mark.label == 1) for mark in marks if mark.type == "point"
    ]
    if len(boxes) == 1:
        return [Prompt(clicks, boxes[0])]

    prompts = [Prompt([each for each in clicks if _is_in(each, box)], box) for box in boxes]
    apart = [each for each in clicks if not any(_is_in(each, box) for box in boxes)]
    if any(click.on for click in apart):
        prompts.append(Prompt(apart))
    if not prompts:
        raise InvalidInput(
            "params.marks", "params.marks: no point or rectangle on an object; add one first"
        )
    return prompts


def _box(mark: Mark, index: int) -> Box:
    field = f"params.marks[{index}]"
    if mark.label != 1:
        raise InvalidInput(field, f"{field}: a rectangle beside the object is not supported")
    if len(mark.data) != 4:
        raise InvalidInput(field, f"{field}: {len(mark.data)} numbers; expected [x1, y1, x2, y2]")
    x1, y1, x2, y2 = mark.data
    return Box(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))


def _is_in(click: Click, box: Box) -> bool:
    return box.x0 <= click.x <= box.x1 and box.y0 <= click.y <= box.y1
