"""Writes masks as shapes of X-AnyLabeling's window. Pure."""

from __future__ import annotations

from samserve.client import Mask
from samserve.core.arrays import Ints
from samserve.core.contours import area, external_contours, perimeter, simplify
from samserve.gateway.xanylabeling.messages import Shape

SMALLEST_PART = 0.2  # of the mean area of a mask's parts; smaller parts are left out


def rectangle(mask: Mask) -> list[Shape]:
    """Return the box around a mask, or nothing for an empty one."""
    if not mask.area:
        return []
    x0, y0, x1, y1 = mask.bbox
    corners: list[tuple[float, float]] = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    return [Shape(shape_type="rectangle", points=corners, score=mask.predicted_iou)]


def polygons(mask: Mask, epsilon_factor: float) -> list[Shape]:
    """Return the outlines of a mask's larger parts, without holes.

    Args:
        mask: Any; a part without area has no outline.
        epsilon_factor: Pixels that an outline may stray, as a share of its length.
    """
    simple = [
        simplify(contour, epsilon_factor * perimeter(contour))
        for contour in _large(external_contours(mask.runs()))
    ]
    return [
        Shape(
            shape_type="polygon",
            points=[*contour.tolist(), contour[0].tolist()],
            score=mask.predicted_iou,
        )
        for contour in simple
        if len(contour) > 2
    ]


def _large(contours: list[Ints]) -> list[Ints]:
    """Return the contours that enclose at least a share of the mean area."""
    areas = [area(contour) for contour in contours]
    least = SMALLEST_PART * sum(areas) / max(len(areas), 1)
    return [contour for contour, each in zip(contours, areas, strict=True) if each >= least]
