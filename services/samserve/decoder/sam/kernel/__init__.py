"""The compiled decoder: passes over an image's cells, and the steps on tokens between the passes.

Threads may share an image.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samserve.decoder.sam.kernel import structs
from samserve.native.loader import library

Floats = NDArray[Any]  # fp32, contiguous
HEADS, TILE, MOST_TOKENS = 8, 64, 24


def address(array: NDArray[Any]) -> int:
    """Where an array lies; ValueError if not in one piece."""
    if not array.flags.c_contiguous:
        raise ValueError("the kernel reads and writes whole arrays, not views with gaps")
    return array.ctypes.data


class Job:
    """One prompt on one image, run step by step; keeps alive what it reads."""

    def __init__(
        self,
        weights: structs.Weights,
        tokens: Floats,
        wanted: list[int],
        arrays: Mapping[str, NDArray[Any]],
    ) -> None:
        """tokens [n, 256]; wanted: of masks 0 to 3; arrays: the others, by their names in decode_job.h."""
        self._library = _library()
        self._kept = {
            "given": tokens,
            "side": np.empty(self._library.tokens_bytes(), np.uint8),
            **arrays,
        }
        self._raw = structs.Job(**{name: address(array) for name, array in self._kept.items()})
        self._raw.cells, self._raw.tokens = arrays["r1"].size, len(tokens)
        self._raw.rough, self._raw.masks = arrays["rough_rows"].shape[1], len(wanted)
        self._raw.wanted[: len(wanted)] = wanted
        self._raw.weights = ctypes.addressof(weights)

    def cells(self, name: str, first: int, last: int, out: Floats | None = None) -> None:
        """Run pass `name` over cells first to last, both multiples of TILE."""
        where = () if out is None else (ctypes.c_void_p(address(out)),)
        function = getattr(self._library, f"pass_{name}")
        function(ctypes.byref(self._raw), ctypes.c_int64(first), ctypes.c_int64(last), *where)

    def tokens(self, name: str, outs: list[Floats]) -> None:
        """Run step `name` on the tokens, with what the callers of the pass before it wrote to their `out`."""
        where = (ctypes.c_void_p * len(outs))(*map(address, outs))
        getattr(self._library, f"tokens_{name}")(
            ctypes.byref(self._raw), where, ctypes.c_int64(len(outs))
        )


def gelu(x: Floats) -> None:
    """Exact GELU of a contiguous fp32 array, in place."""
    _library().activate(ctypes.c_void_p(address(x)), ctypes.c_int64(x.size))


def project(weight: Floats, x: Floats, out: Floats, first: int, last: int) -> None:
    """weight [R, K], x [tiles, K, 64] -> out [tiles, R, 64], for columns first to last."""
    where = [ctypes.c_void_p(address(array)) for array in (weight, x, out)]
    counts = [ctypes.c_int64(count) for count in (*weight.shape, first, last)]
    _library().project(*where, *counts)


def quantise(x: Floats, cells_first: bool) -> tuple[NDArray[np.int16], Floats]:
    """[tiles, R, 64] -> 16-bit integers, [tiles, R, 64] or [N, R], and the scale of each row, [R]."""
    tiles, rows, _ = x.shape
    small = np.empty((tiles * TILE, rows) if cells_first else x.shape, np.int16)
    scale = np.empty(rows, np.float32)
    counts = ctypes.c_int64(rows), ctypes.c_int64(tiles * TILE), ctypes.c_int(cells_first)
    where = [ctypes.c_void_p(address(array)) for array in (x, small, scale)]
    _library().quantise(where[0], *counts, *where[1:])
    return small, scale


@cache
def _library() -> ctypes.CDLL:
    decoder = library(Path(__file__).parent)
    passes = (f"pass_{name}" for name in ("first", "second", "third", "masks"))
    steps = (f"tokens_{name}" for name in ("begin", "first", "second", "last"))
    for name in (*passes, *steps, "activate", "project", "quantise"):
        getattr(decoder, name).restype = None
    for name in ("tokens_bytes", "weights_bytes", "job_bytes"):
        getattr(decoder, name).restype = ctypes.c_int64
    return decoder
