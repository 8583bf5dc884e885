"""From low-res logits to masks at the image's size, and to the forms in which masks are sent. Pure."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from samserve.core.geometry import Frame, Size, fit
from samserve.core.runs import Runs, bits

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """The source's columns that may hold some of the mask: the first one's number; of each, [N], the framed column to
    its left, counted in the part, and the weight of the one after it.
    """

    first: int
    left: Ints
    weight: Floats


@np.errstate(invalid="ignore", over="ignore")
def outline(logits: Floats, size: Size, frame: Frame) -> Runs:
    """[L, L] low-res logits -> the mask at the source's size; the frame's side is a whole multiple of L. A model whose
    masks go to the source's size at once has a `mask_frame` of side L.

    SAM's order: bilinear to the frame, cut the padding off, bilinear to the source's size, threshold at 0. A source
    column's values run in straight lines from one row of the frame to the next. So the mask turns in it once between
    two rows whose values differ in sign; that can be only where the four framed logits around differ in sign.
    Source: SAM, Sam.postprocess_masks; torch's bilinear with align_corners=False.
    """
    inner = fit(size, frame)
    framed, row0, column0 = _framed(logits, inner, frame)
    columns = _columns(size.width, inner.width, column0, framed.shape[1])
    rows, at = _crossed(framed, columns.left)
    left, weight = columns.left[at], columns.weight[at]
    above, inside = _across(framed, rows, left, weight)
    below, inside_below = _across(framed, rows + 1, left, weight)
    turning = inside != inside_below
    rows, at, above, below, inside = (a[turning] for a in (rows, at, above, below, inside))
    share = np.nan_to_num(
        above / (above - below), nan=0.5
    )  # logits too small or too large for float32
    y = (row0 + rows + share + 0.5) * (size.height / inner.height) - 0.5
    y = np.where(inside, np.ceil(y), np.floor(y) + 1).astype(np.int64)  # 0 itself is background
    ends = [
        _across(framed, np.full_like(columns.left, row), columns.left, columns.weight)[1]
        for row in (0, -1)
    ]
    turns = np.concatenate(
        [at * size.height + y, *(size.height * (np.flatnonzero(e) + i) for i, e in enumerate(ends))]
    )
    turns, times = np.unique(turns + columns.first * size.height, return_counts=True)
    turns = turns[times % 2 == 1]
    return Runs(size.height, size.width, turns[turns < size.pixels])


def _framed(logits: Floats, inner: Size, frame: Frame) -> tuple[Floats, int, int]:
    """The part of the framed logits on the image that has all the positive ones, its first row and first column.

    A framed logit mixes the two nearest rows and columns: with a margin of two the positive ones and their neighbours
    are what they are in the whole. The part has two columns at least.
    """
    cell = frame.side // len(logits)
    shown = logits[: -(-inner.height // cell) + 1, : -(-inner.width // cell) + 1]
    inside = shown > 0
    spans = [np.flatnonzero(inside.any(axis)) for axis in (1, 0)]
    (y0, y1), (x0, x1) = ((max(s[0] - 2, 0), s[-1] + 3) if len(s) else (0, 1) for s in spans)
    framed = cv2.resize(shown[y0:y1, x0:x1], None, fx=cell, fy=cell, interpolation=cv2.INTER_LINEAR)
    framed = framed[: inner.height - y0 * cell, : inner.width - x0 * cell]
    if framed.shape[1] == 1:
        framed = np.repeat(framed, 2, axis=1)
    return framed, y0 * cell, x0 * cell


def _columns(width: int, inner: int, first: int, number: int) -> _Columns:
    """The source's columns that lie between `number` columns of the frame from the first on."""
    at = np.clip((np.arange(width) + 0.5) * (inner / width) - 0.5, 0, inner - 1) - first
    begin, end = np.searchsorted(at, 0), np.searchsorted(at, number - 1, "right")
    left = np.minimum(at[begin:end].astype(np.int64), number - 2)
    return _Columns(int(begin), left, (at[begin:end] - left).astype(np.float32))


def _crossed(framed: Floats, left: Ints) -> tuple[Ints, Ints]:
    """Where four framed logits differ in sign: the upper row, and the index in left, of each source column between."""
    inside = (framed > 0).view(np.uint8)
    pairs = inside[:-1] + inside[1:]
    fours = pairs[:, :-1] + pairs[:, 1:]
    rows, cells = np.divmod(np.flatnonzero((fours - 1) < 3), max(fours.shape[1], 1))  # 0 - 1 is 255
    begins = np.searchsorted(left, np.arange(fours.shape[1] + 1))
    number = np.diff(begins)[cells]
    at = np.arange(number.sum()) + np.repeat(begins[cells] - (np.cumsum(number) - number), number)
    return np.repeat(rows, number), at


def _across(framed: Floats, rows: Ints, left: Ints, weight: Floats) -> tuple[Floats, Bools]:
    """The values on framed rows at source columns, and whether they are positive, told by their neighbours if these
    agree, lest a rounding makes a turn of what has none.
    """
    a, b = framed[rows, left], framed[rows, left + 1]
    values = a * (1 - weight) + b * weight
    inside = a > 0
    return values, np.where(inside == (b > 0), inside, values > 0)


def stability_score(logits: Floats, size: Size, frame: Frame, offset: float = 1.0) -> float:
    """IoU of the masks cut at logit +offset and -offset, of the low-res logits that lie on the image; 0 if both empty.

    Source: SAM, calculate_stability_score.
    """
    inner, cell = fit(size, frame), frame.side / logits.shape[0]
    shown = logits[: int(np.ceil(inner.height / cell)), : int(np.ceil(inner.width / cell))]
    sure, possible = np.count_nonzero(shown > offset), np.count_nonzero(shown > -offset)
    return sure / possible if possible else 0.0


def png(runs: Runs) -> bytes:
    """A one-bit PNG of the mask. Source: the PNG specification; each row begins with a byte 0: no filter."""
    rows = np.pad(bits(runs), ((0, 0), (1, 0)))
    header = struct.pack(">IIBBBBB", runs.width, runs.height, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    written = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)
