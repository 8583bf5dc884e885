"""Regions of a context as prompts, one for each object. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from samserve.client import Box, Click, Prompt
from samserve.core.errors import InvalidInput, shorten
from samserve.core.geometry import Size
from samserve.gateway.label_studio.messages import ContextRegion, RegionValue

FIELD = "params.context.result"
POINTS = ("keypointlabels", "keypoint")
BOXES = ("rectanglelabels", "rectangle")
ELLIPSES = ("ellipselabels", "ellipse")


@dataclass(frozen=True, slots=True)
class ObjectPrompt:
    """The prompt for one object, and the label its mask gets."""

    prompt: Prompt
    label: str


def object_prompts(regions: Sequence[ContextRegion], size: Size) -> list[ObjectPrompt]:
    """Return a prompt for each object.

    Keypoints are clicks on one object. Each rectangle is an object; with several rectangles, each
    takes the keypoints inside it, and those in none make a further object.

    Args:
        regions: Of the context.
        size: Of the oriented image, in pixels.

    Raises:
        InvalidInput: A region is not supported, or every keypoint marks the background.
    """
    clicks: list[Click] = []
    boxes: list[tuple[Box, str]] = []
    click_label = ""
    for index, region in enumerate(regions):
        _check_rotation(region, index)
        if region.type in POINTS:
            clicks.append(_click(region, size))
            click_label = click_label or region.label
        elif region.type in BOXES or region.type in ELLIPSES:
            boxes.append((_box(region, index, size), region.label))
        else:
            raise InvalidInput(
                f"{FIELD}[{index}].type",
                f"{FIELD}[{index}].type: {shorten(region.type)!r} is not supported; "
                "draw with a smart keypoint or rectangle",
            )

    objects = []
    for box, label in boxes:
        inside = [click for click in clicks if len(boxes) == 1 or _contains(box, click)]
        clicks = [click for click in clicks if click not in inside]
        objects.append(ObjectPrompt(Prompt(inside, box=box), label))
    if any(click.on for click in clicks):
        objects.append(ObjectPrompt(Prompt(clicks), click_label))
    elif clicks and not boxes:
        raise InvalidInput(FIELD, f"{FIELD}: every keypoint marks the background; add one on it")
    return objects


def _check_rotation(region: ContextRegion, index: int) -> None:
    if region.image_rotation % 360:
        field = f"{FIELD}[{index}].image_rotation"
        raise InvalidInput(
            field, f"{field}: {region.image_rotation:g}; rotated images are not supported"
        )


def _click(region: ContextRegion, size: Size) -> Click:
    x, y = _pixels(region.value.x, region.value.y, size)
    return Click(x, y, region.positive)


def _box(region: ContextRegion, index: int, size: Size) -> Box:
    """Return the box around a rectangle or an ellipse, both perhaps rotated, within the image."""
    corners = _ellipse_corners if region.type in ELLIPSES else _rectangle_corners
    xs, ys = zip(*corners(region.value, size), strict=True)
    x0, x1 = (min(max(x, 0.0), size.width) for x in (min(xs), max(xs)))
    y0, y1 = (min(max(y, 0.0), size.height) for y in (min(ys), max(ys)))
    if x0 >= x1 or y0 >= y1:
        field = f"{FIELD}[{index}].value"
        raise InvalidInput(field, f"{field}: the region is empty, or outside the image")
    return Box(x0, y0, x1, y1)


def _rectangle_corners(value: RegionValue, size: Size) -> list[tuple[float, float]]:
    """Return the corners in pixels. The rotation is about the upper left one."""
    x, y = value.x * size.width / 100, value.y * size.height / 100
    width, height = value.width * size.width / 100, value.height * size.height / 100
    cos, sin = math.cos(math.radians(value.rotation)), math.sin(math.radians(value.rotation))
    return [
        (x + across * cos - down * sin, y + across * sin + down * cos)
        for across, down in ((0.0, 0.0), (width, 0.0), (0.0, height), (width, height))
    ]


def _ellipse_corners(value: RegionValue, size: Size) -> list[tuple[float, float]]:
    """Return two corners of the box in pixels. The rotation is about the centre."""
    x, y = value.x * size.width / 100, value.y * size.height / 100
    radius_x, radius_y = value.radius_x * size.width / 100, value.radius_y * size.height / 100
    cos, sin = math.cos(math.radians(value.rotation)), math.sin(math.radians(value.rotation))
    half_width = math.hypot(radius_x * cos, radius_y * sin)
    half_height = math.hypot(radius_x * sin, radius_y * cos)
    return [(x - half_width, y - half_height), (x + half_width, y + half_height)]


def _pixels(x: float, y: float, size: Size) -> tuple[float, float]:
    """Scale percent to pixels; the editor's values may exceed the image by a hair."""
    return (
        min(max(x, 0.0), 100.0) * size.width / 100,
        min(max(y, 0.0), 100.0) * size.height / 100,
    )


def _contains(box: Box, click: Click) -> bool:
    return box.x0 <= click.x <= box.x1 and box.y0 <= click.y <= box.y1
