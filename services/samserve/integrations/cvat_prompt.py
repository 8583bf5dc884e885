"""Prompts as CVAT gives them: points on the object and beside it, and two corners. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from samserve.client import Box, Click, Prompt

Pair = Sequence[float]  # x, y in pixels of the frame


def read_prompt(
    pos_points: Sequence[Pair], neg_points: Sequence[Pair], corners: Sequence[Pair]
) -> Prompt | None:
    """Return the prompt for one object, or None if there is neither a point nor a box.

    Args:
        pos_points: On the object.
        neg_points: Beside it.
        corners: Two opposite corners of a box, in any order, or none.
    """
    clicks = [Click(x, y) for x, y in pos_points]
    clicks += [Click(x, y, on=False) for x, y in neg_points]
    if not corners:
        return Prompt(clicks) if clicks else None

    (x1, y1), (x2, y2) = corners
    return Prompt(clicks, Box(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)))
