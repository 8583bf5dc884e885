"""The compiled decoder: passes over an image's cells, and the steps on tokens between the passes.

Shapes: a tile is 64 cells, N = 64 x tiles. Thread-safe; several threads may work on one image.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np

from samserve.core.arrays import Array, Floats, Shorts
from samserve.decoder.sam.kernel import structs
from samserve.decoder.sam.kernel.layout import (
    HEADS,
    MOST_QUANTISED,
    TILE,
    check_cells,
    check_job,
    job_addresses,
    project_addresses,
    sums_size,
)
from samserve.native.arrays import address, check
from samserve.native.loader import library

MOST_TOKENS = 24
PASS_BEFORE = {"begin": "masks", "first": "first", "second": "second", "last": "third"}

__all__ = ["HEADS", "MOST_TOKENS", "TILE", "DecodeJob", "gelu", "project", "quantise", "structs"]


class DecodeJob:
    """One prompt on one image, run step by step; keeps the arrays alive that it reads."""

    def __init__(
        self,
        weights: structs.Weights,
        tokens: Floats,
        wanted: list[int],
        arrays: Mapping[str, Array],
    ) -> None:
        """Fill the structure that the kernel reads.

        Args:
            weights: The caller keeps them alive.
            tokens: [n, 256].
            wanted: Numbers of the masks, 0 to 3.
            arrays: All other arrays, by their names in decode_job.h.

        Raises:
            ValueError: An array has another type or size than the kernel relies on.
        """
        self._library = _library()
        self._arrays = {
            "prompt_tokens": tokens,
            "scratch": np.empty(self._library.tokens_bytes(), np.uint8),
            **arrays,
        }

        cells = arrays["r1"].size
        dense = arrays["dense_rows"].shape[1]
        check_job(cells, len(tokens), dense, wanted, MOST_TOKENS)
        sizes = (cells, len(tokens), dense, len(wanted), self._library.tokens_bytes())
        self._struct = structs.Job(**job_addresses(self._arrays, *sizes))
        self._struct.cells = cells
        self._struct.tokens = len(tokens)
        self._struct.dense = dense
        self._struct.masks = len(wanted)
        self._struct.wanted[: len(wanted)] = wanted
        self._struct.weights = ctypes.addressof(weights)

    def run_pass(self, name: str, first: int, last: int, out: Floats | None = None) -> None:
        """Run a pass over cells `first` to `last`, both multiples of TILE.

        Args:
            name: `first`, `second`, `third` or `masks`.
            first: Cell.
            last: Cell, exclusive.
            out: What the pass sums up over its cells; see `pass_first` and so on in image_passes.c.
        """
        function = getattr(self._library, f"pass_{name}")
        check_cells(first, last, self._struct.cells)
        sums = self._sums(name, [] if out is None else [out])
        function(ctypes.byref(self._struct), ctypes.c_int64(first), ctypes.c_int64(last), *sums)

    def run_tokens(self, name: str, outs: list[Floats]) -> None:
        """Run a step on the tokens.

        Args:
            name: `begin`, `first`, `second` or `last`.
            outs: The sums of the preceding pass, one array for each thread.
        """
        function = getattr(self._library, f"tokens_{name}")
        sums = self._sums(PASS_BEFORE[name], outs)
        pointers = (ctypes.c_void_p * len(outs))(*sums)
        function(ctypes.byref(self._struct), pointers, ctypes.c_int64(len(outs)))

    def _sums(self, name: str, outs: list[Floats]) -> list[ctypes.c_void_p]:
        """Return pointers to the sums of a pass. Raises ValueError."""
        size = sums_size(name, self._struct.tokens, self._struct.dense)
        check(bool(outs) == bool(size), f"{len(outs)} arrays for the sums of pass {name!r}")
        return [ctypes.c_void_p(address(out, "sums", np.float32, size)) for out in outs]


def gelu(x: Floats) -> None:
    """Apply the exact GELU to a contiguous array, in place."""
    pointer = ctypes.c_void_p(address(x, "x", np.float32, x.size))
    _library().activate(pointer, ctypes.c_int64(x.size))


def project(weight: Floats, x: Floats, out: Floats, first: int, last: int) -> None:
    """Write weight @ x to `out`, for cells `first` to `last`.

    Args:
        weight: [R, K].
        x: [tiles, K, 64].
        out: [tiles, R, 64].
        first: Cell, a multiple of TILE.
        last: Cell, a multiple of TILE, exclusive.
    """
    check_cells(first, last, len(x) * TILE)
    pointers = [ctypes.c_void_p(at) for at in project_addresses(weight, x, out)]
    counts = [ctypes.c_int64(count) for count in (*weight.shape, first, last)]
    _library().project(*pointers, *counts)


def quantise(x: Floats, cells_first: bool) -> tuple[Shorts, Floats]:
    """Round rows to 16-bit integers, each row with its own scale.

    Args:
        x: [tiles, R, 64].
        cells_first: Whether to write [N, R] instead of [tiles, R, 64].

    Returns:
        The integers, and the scale of each row, [R].
    """
    tiles, rows, _ = x.shape
    check(rows <= MOST_QUANTISED, f"{rows} rows; at most {MOST_QUANTISED}")
    integers = np.empty((tiles * TILE, rows) if cells_first else x.shape, np.int16)
    scale = np.empty(rows, np.float32)

    counts = ctypes.c_int64(rows), ctypes.c_int64(tiles * TILE), ctypes.c_int(cells_first)
    source = ctypes.c_void_p(address(x, "x", np.float32, rows * tiles * TILE))
    targets = [array.ctypes.data_as(ctypes.c_void_p) for array in (integers, scale)]
    _library().quantise(source, *counts, *targets)
    return integers, scale


@cache
def _library() -> ctypes.CDLL:
    compiled = library(Path(__file__).parent)

    passes = (f"pass_{name}" for name in ("first", "second", "third", "masks"))
    steps = (f"tokens_{name}" for name in ("begin", "first", "second", "last"))
    for name in (*passes, *steps, "activate", "project", "quantise"):
        getattr(compiled, name).restype = None

    for name in ("tokens_bytes", "weights_bytes", "job_bytes"):
        getattr(compiled, name).restype = ctypes.c_int64

    return compiled
