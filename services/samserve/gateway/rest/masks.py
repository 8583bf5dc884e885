"""Writes masks as JSON."""

from __future__ import annotations

import base64
from collections.abc import Collection
from typing import Any

from samserve.client import Answer, EmbedAnswer, Findings, Mask, MaskFormat, Polygon
from samserve.client.everything import Everything
from samserve.core.arrays import Floats

GEOJSON = "geojson"


def wire_formats(formats: Collection[str]) -> list[MaskFormat]:
    """Return the formats to ask the decoder for; GeoJSON is written from polygons."""
    names: dict[str, MaskFormat] = {
        "rle": "rle",
        "polygons": "polygons",
        GEOJSON: "polygons",
        "png": "png",
        "bits": "bits",
    }
    return sorted({names[each] for each in formats}) or ["rle"]


def image_json(answer: EmbedAnswer | Answer | Everything | Findings) -> dict[str, Any]:
    """Write the facts about an image."""
    return {
        "image_id": answer.image_id,
        "width": answer.size.width,
        "height": answer.size.height,
        "model_version": answer.model_version,
        "cache": answer.cache.name,
        "timings_ms": {stage: round(ms, 3) for stage, ms in answer.timings_ms.items()},
    }


def masks_json(answer: Answer, formats: Collection[str]) -> dict[str, Any]:
    """Write the masks of all prompts, in the forms that were asked for."""
    results = [{"masks": [mask_json(mask, formats) for mask in masks]} for masks in answer.results]
    return {**image_json(answer), "results": results}


def mask_json(mask: Mask, formats: Collection[str]) -> dict[str, Any]:
    """Write one mask, in the forms that were asked for."""
    written: dict[str, Any] = {
        "predicted_iou": mask.predicted_iou,
        "stability_score": mask.stability_score,
        "area": mask.area,
        "bbox": mask.bbox,
        "candidate": mask.candidate,
    }
    if mask.rle:
        size = [mask.size.height, mask.size.width]
        written["rle"] = {"size": size, "counts": mask.rle.decode("ascii")}
    if "polygons" in formats:
        written["polygons"] = [_polygon_json(polygon) for polygon in mask.polygons]
    if GEOJSON in formats:
        written[GEOJSON] = _geojson(mask.polygons)
    for name, data in (
        ("png", mask.png),
        ("bits", mask.bits),
        ("low_res_logits", mask.low_res_logits),
    ):
        if data:
            written[name] = base64.b64encode(data).decode("ascii")
    return written


def _polygon_json(polygon: Polygon) -> dict[str, Any]:
    return {
        "exterior": polygon.exterior.tolist(),
        "holes": [hole.tolist() for hole in polygon.holes],
    }


def _geojson(polygons: Collection[Polygon]) -> dict[str, Any]:
    return {
        "type": "MultiPolygon",
        "coordinates": [
            [_closed(polygon.exterior), *map(_closed, polygon.holes)] for polygon in polygons
        ],
    }


def _closed(ring: Floats) -> list[list[float]]:
    corners: list[list[float]] = ring.tolist()
    return [*corners, corners[0]]
