"""What `samserve everything` has done already, and the annotations that it writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from samserve.client import Everything, Record
from samserve.coco.dataset import Annotation, Image
from samserve.coco.write import annotation_to_json, image_to_json
from samserve.core.rle import read_rle

JOURNAL, ANNOTATIONS = "annotations.jsonl", "annotations.json"
CATEGORIES = [{"id": 1, "name": "object"}]

Line = dict[str, Any]


class Journal:
    """A file with a line for each finished image, so that an interrupted run can be continued."""

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        """Read the lines of earlier runs.

        Args:
            folder: For the results; it is created.
            options: That the masks depend on. Lines of other options are ignored.

        Raises:
            OSError: The folder or the file cannot be used.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._options = dict(options)
        self._lines: dict[str, Line] = {}

        path = folder / JOURNAL
        for text in path.read_bytes().splitlines() if path.exists() else ():
            line = _parse(text)
            if line is not None and line["options"] == self._options:
                self._lines[line["file_name"]] = line

    def count(self, file_name: str, image_id: str) -> int | None:
        """Return the masks of an image that is done; None if it is not, or its bytes changed."""
        line = self._lines.get(file_name)
        if line is None or line["image_id"] != image_id:
            return None
        return len(line["annotations"])

    def add(self, file_name: str, found: Everything) -> None:
        """Write the line of an image. Raises OSError."""
        image = Image(0, file_name, found.size, {"image_id": found.image_id})
        line = {
            "file_name": file_name,
            "image_id": found.image_id,
            "options": self._options,
            "image": image_to_json(image),
            "annotations": [annotation_to_json(annotation_of(each)) for each in found.records],
        }
        with (self._folder / JOURNAL).open("ab") as file:
            file.write(orjson.dumps(line) + b"\n")
        self._lines[file_name] = line

    def write_annotations(self, file_names: list[str]) -> Path:
        """Write COCO's annotations of these images, as far as they are done. Raises OSError."""
        images: list[Line] = []
        annotations: list[Line] = []
        for file_name in file_names:
            line = self._lines.get(file_name)
            if line is None:
                continue
            image_id = len(images) + 1
            images.append({**line["image"], "id": image_id})
            for annotation in line["annotations"]:
                numbers = {"id": len(annotations) + 1, "image_id": image_id}
                annotations.append({**annotation, **numbers})

        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        path = self._folder / ANNOTATIONS
        temporary = path.with_suffix(".part")
        temporary.write_bytes(orjson.dumps(content))
        temporary.replace(path)
        return path


def annotation_of(record: Record) -> Annotation:
    """Return a record as an annotation, with the fields of SAM's own data set SA-1B beside it."""
    mask = record.mask
    x0, y0, x1, y1 = record.crop_box
    extra: Line = {
        "predicted_iou": round(mask.predicted_iou, 6),
        "stability_score": round(mask.stability_score, 6),
        "point_coords": [list(record.point)],
        "crop_box": [x0, y0, x1 - x0, y1 - y0],
    }
    if record.sure or record.ask is not None:
        extra |= {"sure": record.sure, "disagreement": round(record.disagreement, 6)}
    if record.ask is not None:
        extra["ask"] = list(record.ask)

    outline = read_rle(mask.rle, mask.size.height, mask.size.width)
    has_polygons = mask.polygons and not any(polygon.holes for polygon in mask.polygons)
    rings = tuple(polygon.exterior for polygon in mask.polygons) if has_polygons else ()
    return Annotation(0, 0, 1, outline, polygons=rings, extra=extra)


def _parse(text: bytes) -> Line | None:
    """Return a line, or None if it was cut off by a crash."""
    try:
        line: Line = orjson.loads(text)
        return line if {"file_name", "image_id", "options", "annotations"} <= line.keys() else None
    except (orjson.JSONDecodeError, AttributeError):
        return None
