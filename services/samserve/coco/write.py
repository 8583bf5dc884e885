"""Writes a data set as COCO's JSON. Pure."""

from __future__ import annotations

from typing import Any

import orjson

from samserve.coco.dataset import Annotation, Dataset, Image
from samserve.core.rle import encode_rle


def write_dataset(dataset: Dataset) -> bytes:
    """Return the JSON. Masks are compressed run lengths, or polygons if an annotation has some."""
    return orjson.dumps(
        {
            "images": [image_to_json(image) for image in dataset.images],
            "annotations": [annotation_to_json(each) for each in dataset.annotations],
            "categories": [{"id": each.id, "name": each.name} for each in dataset.categories],
        }
    )


def image_to_json(image: Image) -> dict[str, Any]:
    """Return an image's entry."""
    return {
        **image.extra,
        "id": image.id,
        "file_name": image.file_name,
        "width": image.size.width,
        "height": image.size.height,
    }


def annotation_to_json(annotation: Annotation) -> dict[str, Any]:
    """Return an annotation's entry."""
    return {
        **annotation.extra,
        "id": annotation.id,
        "image_id": annotation.image_id,
        "category_id": annotation.category_id,
        "segmentation": _segmentation(annotation),
        "area": annotation.area,
        "bbox": annotation.bbox,
        "iscrowd": int(annotation.crowd),
    }


def _segmentation(annotation: Annotation) -> Any:
    if annotation.polygons and not annotation.crowd:
        return [[round(float(x), 2) for x in ring.ravel()] for ring in annotation.polygons]
    mask = annotation.mask
    return {"size": [mask.height, mask.width], "counts": encode_rle(mask).decode("ascii")}
