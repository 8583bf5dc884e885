"""Writes masks as Roboflow's server does."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from samserve.client import Mask
from samserve.core.arrays import Array, Floats
from samserve.core.contours import external_contours
from samserve.core.errors import InvalidInput
from samserve.core.runs import dense, runs_of
from samserve.gateway.roboflow.requests import Format

MAX_BINARY_PIXELS = 2**28  # of all masks of a binary answer together
ON, OFF = np.int8(1), np.int8(-1)  # on the same sides of 0 as logits

Polygon = list[list[int]]


def best(masks: Sequence[Mask]) -> Mask:
    """Return the candidate that Roboflow's server would: by predicted IoU alone."""
    return max(masks, key=lambda mask: mask.predicted_iou)


def prediction(mask: Mask, form: Format) -> dict[str, Any]:
    """Write one mask, as polygons or as run lengths."""
    written: Any
    if form == "rle":
        height, width = mask.size.height, mask.size.width
        written = {"size": [height, width], "counts": mask.rle.decode("ascii")}
    else:
        written = [contour.tolist() for contour in external_contours(mask.runs())] or [[]]

    return {
        "masks": written,
        "confidence": mask.predicted_iou,
        "format": "rle" if form == "rle" else "polygon",
    }


def longest_polygon(mask: Mask) -> Polygon:
    """Return the contour with the most corners; empty for an empty mask."""
    contours = external_contours(mask.runs())
    return max(contours, key=len).tolist() if contours else []


def low_res_polygon(mask: Mask) -> Polygon:
    """Return the longest contour of the low-res mask, in 256 x 256 pixels."""
    contours = external_contours(runs_of(mask.low_res_array() > 0))
    return max(contours, key=len).tolist() if contours else []


def npz(masks: Sequence[Mask]) -> bytes:
    """Write masks as an .npz file: `masks` int8 [N, H, W] and `low_res_masks` float32 [N, L, L].

    A pixel of `masks` is 1 or -1, so that both `> 0` and `>= 0` cut it as they cut logits. One mask
    at a time is in memory.

    Raises:
        InvalidInput: The masks have too many pixels.
    """
    pixels = sum(mask.size.pixels for mask in masks)
    if pixels > MAX_BINARY_PIXELS:
        raise InvalidInput(
            "format",
            f"format 'binary': {pixels:,} pixels of masks; the limit is {MAX_BINARY_PIXELS:,}",
        )
    size = masks[0].size
    low_res = [mask.low_res_array().astype(np.float32) for mask in masks]

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        shape = (len(masks), size.height, size.width)
        pixels_of = (np.where(dense(mask.runs()), ON, OFF) for mask in masks)
        _add_array(archive, "masks", "|i1", shape, pixels_of)
        _add_array(archive, "low_res_masks", "<f4", (len(masks), *low_res[0].shape), low_res)
    return file.getvalue()


def npy(array: Floats) -> bytes:
    """Write an array as an .npy file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _add_array(
    archive: zipfile.ZipFile,
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    parts: Iterable[Array],
) -> None:
    """Add an array to an .npz file, part by part along its first axis."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
        header = {"descr": dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(entry, header)
        for part in parts:
            entry.write(np.ascontiguousarray(part).data)
