"""The compiled passes over an image's cells (cells.c). Threads may share an image."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samserve.core.kernel import library

Floats = NDArray[Any]  # fp32, contiguous
HEADS, TILE, MOST_TOKENS = 8, 64, 24

_COUNTS = ("cells", "tokens", "rough", "masks")
_ARRAYS = (
    *("key0", "value0", "query0", "out0", "key1", "value1", "query1", "norm1", "out1", "key2", "value2", "fine"),
    "fine_scale",
    *("square0", "square1", "cross1", "place_key1", "place_query1", "place_key2", "rough_rows"),
    *("s1", "s2", "r1", "r2"),
    *("ask0", "ask0_rough", "keys0", "keys0_rough", "keys0_bias", "values0", "values0_second", "gram0"),
    *("ask1", "ask1_place", "ask1_mixed"),
    *("keys1", "keys1_place", "keys1_mixed", "keys1_bias", "values1", "gram1", "gram12", "gram2"),
    *("ask2", "ask2_place", "ask2_mixed1", "ask2_mixed2"),
    *("mix", "fine_bias", "norm_weight", "norm_bias", "thinner", "thinner_bias", "hyper", "logits"),
)
_NUMBERS = ("epsilon1", "epsilon2", "epsilon_fine")


class _Job(ctypes.Structure):
    """Mirrors Job in cells.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _COUNTS),
        *((name, ctypes.c_void_p) for name in _ARRAYS),
        *((name, ctypes.c_float) for name in _NUMBERS),
    )


class Job:
    """One prompt on one image: the numbers and arrays of cells.c's Job, by name, kept alive as long as it is."""

    def __init__(self, **counts: int) -> None:
        self._raw = _Job(**counts)
        self._kept: dict[str, Floats] = {}

    def give(self, **values: Floats | float) -> None:
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                value = np.ascontiguousarray(value, None if value.dtype == np.int16 else np.float32)
                self._kept[name] = value
                setattr(self._raw, name, value.ctypes.data)
            else:
                setattr(self._raw, name, value)

    def run(self, name: str, first: int, last: int, out: Floats | None = None) -> None:
        """Run pass `name` over cells first to last, both multiples of TILE."""
        where = () if out is None else (ctypes.c_void_p(out.ctypes.data),)
        getattr(_library(), name)(ctypes.byref(self._raw), ctypes.c_int64(first), ctypes.c_int64(last), *where)


def gelu(x: Floats) -> None:
    """Exact GELU of a contiguous fp32 array, in place."""
    _library().activate(ctypes.c_void_p(x.ctypes.data), ctypes.c_int64(x.size))


def project(weight: Floats, x: Floats, out: Floats, first: int, last: int) -> None:
    """weight [R, K], x [tiles, K, 64] -> out [tiles, R, 64], for columns first to last."""
    _project("project", weight, x, out, first, last)


def project_half(weight: Floats, x: NDArray[np.float16], out: Floats, first: int, last: int) -> None:
    """The same, x being fp16, and K a multiple of 64."""
    _project("project_half", weight, x, out, first, last)


def _project(name: str, weight: Floats, x: NDArray[Any], out: Floats, first: int, last: int) -> None:
    if not all(array.flags.c_contiguous for array in (weight, x, out)):
        raise ValueError("the kernel reads and writes whole arrays, not views with gaps")
    rows, inner = weight.shape
    where = [ctypes.c_void_p(array.ctypes.data) for array in (weight, x, out)]
    counts = [ctypes.c_int64(count) for count in (rows, inner, first, last)]
    getattr(_library(), name)(*where, *counts)


def quantise(x: Floats, cells_first: bool) -> tuple[NDArray[np.int16], Floats]:
    """[tiles, R, 64] -> 16-bit integers, [tiles, R, 64] or [N, R], and the scale of each row, [R]."""
    tiles, rows, _ = x.shape
    small = np.empty((tiles * TILE, rows) if cells_first else x.shape, np.int16)
    scale = np.empty(rows, np.float32)
    counts = ctypes.c_int64(rows), ctypes.c_int64(tiles * TILE), ctypes.c_int(cells_first)
    where = [ctypes.c_void_p(array.ctypes.data) for array in (x, small, scale)]
    _library().quantise(where[0], *counts, *where[1:])
    return small, scale


@cache
def _library() -> ctypes.CDLL:
    passes = library(Path(__file__).with_name("cells.c"))
    for name in (
        "pass_first",
        "pass_second",
        "pass_third",
        "pass_masks",
        "activate",
        "project",
        "project_half",
        "quantise",
    ):
        getattr(passes, name).restype = None
    return passes
