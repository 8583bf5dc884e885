"""Masks as regions of Label Studio. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from samserve.client import Mask, MaskFormat
from samserve.core.rle import read_rle
from samserve.gateway.label_studio.bitmask import bitmask_url
from samserve.gateway.label_studio.brush import encode_brush
from samserve.gateway.label_studio.config import Kind, OutputTag

Value = dict[str, Any]

FORMATS: Mapping[Kind, tuple[MaskFormat, ...]] = {
    "brush": ("rle",),
    "bitmask": ("png",),
    "polygon": ("polygons",),
    "rectangle": ("rle",),
}


def regions(mask: Mask, output: OutputTag, label: str) -> list[dict[str, Any]]:
    """Return a mask's regions: one, or one for each part as polygons; none for an empty mask.

    Args:
        mask: With the format that `FORMATS` has for the output's kind.
        output: The control that they belong to.
        label: Of the object; empty for none.
    """
    if mask.area == 0:
        return []
    labels = {output.type: _labels(output, label)} if output.has_labels else {}

    return [
        {
            "id": secrets.token_urlsafe(8),
            "type": output.type,
            "from_name": output.name,
            "to_name": output.to_name,
            "original_width": mask.size.width,
            "original_height": mask.size.height,
            "image_rotation": 0,
            "score": score_of(mask),
            "readonly": False,
            "value": {**value, **labels},
        }
        for value in _VALUES[output.kind](mask)
    ]


def score_of(mask: Mask) -> float:
    """Return a mask's score, from 0 to 1."""
    return round(min(max(mask.predicted_iou, 0.0), 1.0), 4)


def _labels(output: OutputTag, label: str) -> list[str]:
    """Return the label if the control has it, else the control's first label."""
    if not output.labels:
        return [label] if label else []
    return [label if label in output.labels else output.labels[0]]


def _brush_values(mask: Mask) -> list[Value]:
    runs = read_rle(mask.rle, mask.size.height, mask.size.width)
    return [{"format": "rle", "rle": encode_brush(runs)}]


def _bitmask_values(mask: Mask) -> list[Value]:
    return [{"imageDataURL": bitmask_url(mask.png, mask.size)}]


def _polygon_values(mask: Mask) -> list[Value]:
    """Return the parts' outlines, in percent. A polygon of Label Studio has no holes."""
    scale = (100 / mask.size.width, 100 / mask.size.height)
    return [
        {"points": (polygon.exterior * scale).tolist(), "closed": True} for polygon in mask.polygons
    ]


def _rectangle_values(mask: Mask) -> list[Value]:
    x0, y0, x1, y1 = mask.bbox
    width, height = mask.size.width, mask.size.height
    return [
        {
            "x": 100 * x0 / width,
            "y": 100 * y0 / height,
            "width": 100 * (x1 - x0) / width,
            "height": 100 * (y1 - y0) / height,
            "rotation": 0,
        }
    ]


_VALUES: Mapping[Kind, Callable[[Mask], list[Value]]] = {
    "brush": _brush_values,
    "bitmask": _bitmask_values,
    "polygon": _polygon_values,
    "rectangle": _rectangle_values,
}
