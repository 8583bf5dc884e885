"""Rough masks that Roboflow's clients send to be refined. Pure.

Their server gives the model polygons as 0 and 1, not as logits; so does this one.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from samserve.core.arrays import Array, Bools, Doubles, Floats
from samserve.core.errors import InvalidInput
from samserve.gateway.base64_image import decode_base64

FIELD = "mask_input"
SIDE = 256  # pixels of low-res logits

MAX_CORNERS = 10_000  # of all polygons together
MAX_COORDINATE = 1e6
MAX_FILE_BYTES = 8 * SIDE * SIDE + 1024  # float64, and a header
LARGEST_LOGIT = 1000.0
NUMBERS = "fiub"  # numpy's kinds of number


def read_mask_input(value: Any, form: str) -> bytes:
    """Return logits for a prompt: fp16, little-endian, [256, 256].

    Args:
        value: A list of polygons, or base64 of an .npy file.
        form: "json" or "binary".

    Raises:
        InvalidInput: It is neither, or too large.
    """
    logits = _read_polygons(value) if form == "json" else _read_npy(value)
    if not np.isfinite(logits).all():
        raise InvalidInput(FIELD, f"{FIELD} has a value that is not a finite number")
    return np.clip(logits, -LARGEST_LOGIT, LARGEST_LOGIT).astype("<f2").tobytes()


def _read_polygons(value: Any) -> Floats:
    """Draw polygons; pixels of any of them are 1."""
    if not isinstance(value, list) or not all(isinstance(polygon, list) for polygon in value):
        raise InvalidInput(FIELD, f"{FIELD}: expected a list of polygons [[x, y], ...]")
    corners = sum(map(len, value))
    if corners > MAX_CORNERS:
        raise InvalidInput(FIELD, f"{FIELD}: {corners:,} corners; the limit is {MAX_CORNERS:,}")

    drawn = np.zeros((SIDE, SIDE), bool)
    for polygon in value:
        if polygon:
            drawn |= fill(_corners(polygon))
    return drawn.astype(np.float32)


def _corners(polygon: list[Any]) -> Doubles:
    try:
        corners = np.array(polygon, np.float64)
    except (TypeError, ValueError, OverflowError):
        corners = np.zeros(0)
    if corners.ndim != 2 or corners.shape[1] != 2:
        raise InvalidInput(FIELD, f"{FIELD}: expected polygons of pairs of numbers [x, y]")
    return np.clip(corners, -MAX_COORDINATE, MAX_COORDINATE)


def fill(polygon: Doubles) -> Bools:
    """Return the pixels whose centres are inside a polygon, by the even-odd rule.

    Args:
        polygon: [N, 2], (x, y) in pixels; pixel (0, 0) is from 0 to 1.

    Returns:
        bool [256, 256].
    """
    (x, y), (x_next, y_next) = polygon.T, np.roll(polygon, -1, 0).T
    centres = np.arange(SIDE) + 0.5

    # Where each edge crosses the centre line of a row: the pixels to its right change sides.
    crosses = (y[:, None] <= centres) != (y_next[:, None] <= centres)
    edge, row = np.nonzero(crosses)
    share = (centres[row] - y[edge]) / (y_next[edge] - y[edge])
    at = x[edge] + share * (x_next[edge] - x[edge])
    column = np.clip(np.ceil(at - 0.5), 0, SIDE).astype(np.int64)

    crossings = np.zeros((SIDE, SIDE + 1), np.int64)
    np.add.at(crossings, (row, column), 1)
    inside: Bools = np.cumsum(crossings, 1)[:, :SIDE] % 2 == 1
    return inside


def _read_npy(value: Any) -> Array:
    """Read an .npy file: its header first, then exactly the numbers that it announces."""
    if not isinstance(value, str):
        raise InvalidInput(FIELD, f"{FIELD}: expected base64 of an .npy file")
    data = decode_base64(value, FIELD, MAX_FILE_BYTES)
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read_header(file)
    except (ValueError, KeyError) as problem:
        raise InvalidInput(FIELD, f"{FIELD}: no .npy file of version 1 or 2") from problem

    count = SIDE * SIDE
    if dtype.kind not in NUMBERS or shape[-2:] != (SIDE, SIDE) or set(shape[:-2]) - {1}:
        raise InvalidInput(
            FIELD, f"{FIELD}: {dtype} {list(shape)}; expected numbers [{SIDE}, {SIDE}]"
        )
    if len(data) - file.tell() != count * dtype.itemsize:
        raise InvalidInput(FIELD, f"{FIELD}: the .npy file is truncated or too long")

    numbers = np.frombuffer(data, dtype, count, file.tell()).reshape(SIDE, SIDE)
    return (numbers.T if fortran else numbers).astype(np.float64)
