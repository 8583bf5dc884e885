"""Reads COCO's JSON, and refuses what is wrong by the field's name. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import orjson

from samserve.coco.dataset import Annotation, Category, Dataset, Image
from samserve.core.arrays import Floats
from samserve.core.errors import InvalidInput, shorten
from samserve.core.fill import fill
from samserve.core.geometry import Size
from samserve.core.limits import check_count
from samserve.core.rle import read_rle, runs_of_lengths
from samserve.core.run_sets import union
from samserve.core.runs import Runs

MAX_FILE_BYTES = 2**30
MAX_ENTRIES = 5_000_000  # images, or annotations
MAX_PIXELS = 200_000_000  # of an image
MAX_NUMBERS = 10_000_000  # coordinates or run lengths of an annotation
LEAST_CORNERS = 3

KNOWN_IMAGE = {"id", "file_name", "width", "height"}
KNOWN = {"id", "image_id", "category_id", "segmentation", "area", "bbox", "iscrowd"}

Entry = Mapping[str, Any]
Value = TypeVar("Value")


def read_dataset(data: bytes) -> Dataset:
    """Read a data set.

    Areas and boxes are those of the masks, not those in the file, which must only be possible ones.

    Raises:
        InvalidInput: It is not COCO's; the error names the field, as in
            `annotations[3].segmentation.counts`.
    """
    check_count(len(data), MAX_FILE_BYTES, "annotations", "bytes")
    try:
        content = orjson.loads(data)
    except orjson.JSONDecodeError as problem:
        raise InvalidInput("annotations", f"the annotations are not JSON: {problem}") from problem
    if not isinstance(content, dict):
        raise _wrong("annotations", content, "an object with images and annotations")

    images = _entries(content, "images", _read_image)
    sizes = {image.id: image.size for image in images}
    categories = _entries(content, "categories", _read_category)
    known = {category.id for category in categories}

    def read_annotation(entry: Entry, field: str) -> Annotation:
        return _read_annotation(entry, field, sizes, known)

    return Dataset(images, _entries(content, "annotations", read_annotation), categories)


def _entries(content: Entry, name: str, read: Callable[[Entry, str], Value]) -> list[Value]:
    """Read the entries of a list; their ids differ."""
    entries = content.get(name, [])
    if not isinstance(entries, list):
        raise _wrong(name, entries, "a list")
    check_count(len(entries), MAX_ENTRIES, name, "entries")

    values: list[Value] = []
    ids: set[int] = set()
    for index, entry in enumerate(entries):
        field = f"{name}[{index}]"
        if not isinstance(entry, dict):
            raise _wrong(field, entry, "an object")
        values.append(read(entry, field))

        identity = entry["id"]
        if identity in ids:
            raise InvalidInput(f"{field}.id", f"{field}.id: {identity} is already in use")
        ids.add(identity)
    return values


def _read_image(entry: Entry, field: str) -> Image:
    size = Size(_integer(entry, "width", field, 1), _integer(entry, "height", field, 1))
    if size.pixels > MAX_PIXELS:
        raise InvalidInput(
            f"{field}.width",
            f"{field}: {size.width} x {size.height} pixels; the limit is {MAX_PIXELS:,} in all",
        )
    return Image(
        id=_integer(entry, "id", field),
        file_name=_text(entry, "file_name", field),
        size=size,
        extra=_without(entry, KNOWN_IMAGE),
    )


def _read_category(entry: Entry, field: str) -> Category:
    return Category(_integer(entry, "id", field), _text(entry, "name", field))


def _read_annotation(
    entry: Entry, field: str, sizes: Mapping[int, Size], categories: set[int]
) -> Annotation:
    image_id = _integer(entry, "image_id", field)
    if image_id not in sizes:
        raise InvalidInput(f"{field}.image_id", f"{field}.image_id: unknown image {image_id}")
    category_id = _integer(entry, "category_id", field)
    if category_id not in categories:
        raise InvalidInput(
            f"{field}.category_id", f"{field}.category_id: unknown category {category_id}"
        )
    crowd = entry.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise _wrong(f"{field}.iscrowd", crowd, "0 or 1")
    _check_measures(entry, field)

    mask, polygons = _read_mask(entry, f"{field}.segmentation", sizes[image_id])
    return Annotation(
        id=_integer(entry, "id", field),
        image_id=image_id,
        category_id=category_id,
        mask=mask,
        crowd=bool(crowd),
        polygons=polygons,
        extra=_without(entry, KNOWN),
    )


def _check_measures(entry: Entry, field: str) -> None:
    """Check area and box, if there are any."""
    area = entry.get("area", 0)
    if not _is_number(area) or area < 0:
        raise _wrong(f"{field}.area", area, "a number, 0 or more")

    box = entry.get("bbox", [0, 0, 0, 0])
    is_box = isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))
    if not is_box or min(box[2:]) < 0:
        raise _wrong(f"{field}.bbox", box, "x, y, width and height")


def _read_mask(entry: Entry, field: str, size: Size) -> tuple[Runs, tuple[Floats, ...]]:
    """Return the mask, and the polygons that it was read from."""
    segmentation = entry.get("segmentation")
    if isinstance(segmentation, dict):
        return _read_runs(segmentation, field, size), ()
    if not isinstance(segmentation, list) or not segmentation:
        raise _wrong(field, segmentation, "run lengths or a list of polygons")

    check_count(
        sum(len(ring) for ring in segmentation if isinstance(ring, list)),
        MAX_NUMBERS,
        field,
        "coordinates",
    )
    rings = tuple(_read_ring(ring, f"{field}[{i}]") for i, ring in enumerate(segmentation))
    try:
        return union([fill([ring], size) for ring in rings], size), rings
    except ValueError as problem:
        raise InvalidInput(field, f"{field}: {problem}") from problem


def _read_runs(segmentation: Entry, field: str, size: Size) -> Runs:
    if segmentation.get("size") != [size.height, size.width]:
        raise InvalidInput(
            f"{field}.size",
            f"{field}.size: {shorten(str(segmentation.get('size')))}; the image has "
            f"[{size.height}, {size.width}]",
        )

    counts, name = segmentation.get("counts"), f"{field}.counts"
    try:
        if isinstance(counts, str):
            check_count(len(counts), MAX_NUMBERS, name, "characters")
            return read_rle(counts.encode("ascii"), size.height, size.width)
        if isinstance(counts, list) and all(type(count) is int for count in counts):
            check_count(len(counts), MAX_NUMBERS, name, "run lengths")
            return runs_of_lengths(np.array(counts, np.int64), size.height, size.width)
    except (ValueError, OverflowError) as problem:
        raise InvalidInput(name, f"{name}: {problem}") from problem
    raise _wrong(name, counts, "COCO's text or a list of run lengths")


def _read_ring(ring: Any, field: str) -> Floats:
    is_list = isinstance(ring, list) and all(map(_is_number, ring))
    if not is_list or len(ring) % 2 or len(ring) < 2 * LEAST_CORNERS:
        raise _wrong(field, ring, f"x and y of {LEAST_CORNERS} corners or more")
    with np.errstate(over="ignore"):
        corners = np.array(ring, np.float32).reshape(-1, 2)
    if not np.isfinite(corners).all():
        raise _wrong(field, ring, "finite numbers")
    return corners


def _integer(entry: Entry, name: str, field: str, least: int = 0) -> int:
    value = entry.get(name)
    if type(value) is not int or value < least:
        raise _wrong(f"{field}.{name}", value, f"a whole number, {least} or more")
    return value


def _text(entry: Entry, name: str, field: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str):
        raise _wrong(f"{field}.{name}", value, "a text")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _without(entry: Entry, known: set[str]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in known}


def _wrong(field: str, value: object, expected: str) -> InvalidInput:
    shown = "is missing" if value is None else f"{shorten(repr(value))} is invalid"
    return InvalidInput(field, f"{field}: {shown}; expected {expected}")
