"""The compiled passes over logits and rings, from outlines.c."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import numpy as np

from samserve.core.arrays import Array, Bools, Floats, Ints
from samserve.native.loader import library

LARGEST_CELL = 64


@cache
def load() -> ctypes.CDLL:
    """Load the library for this CPU."""
    kernel = library(Path(__file__).parent)
    kernel.scale_bilinear.restype = kernel.simplify.restype = None
    return kernel


def scale_bilinear(logits: Floats, cell: int) -> Floats:
    """Scale logits by an integer: bilinear, as torch's with align_corners=False.

    Args:
        logits: fp32 [rows, columns], not empty; values of a row are contiguous.
        cell: At most 64.

    Returns:
        fp32 [rows * cell, columns * cell].
    """
    rows, columns = logits.shape
    contiguous = columns == 1 or logits.strides[1] == logits.itemsize
    if logits.dtype != np.float32 or not contiguous or not rows or not columns:
        raise ValueError(f"logits: fp32 rows, not empty, not {logits.dtype} {logits.shape}")
    if not 0 < cell <= LARGEST_CELL:
        raise ValueError(f"cell: {cell} is not from 1 to {LARGEST_CELL}")

    out = np.empty((rows * cell, columns * cell), np.float32)
    scratch = np.empty((2, columns * cell), np.float32)
    sizes = _sizes((rows, columns, logits.strides[0] // logits.itemsize, cell))
    load().scale_bilinear(_at(logits), *sizes, _at(scratch), _at(out))
    return out


def simplify(corners: Floats, ends: Ints, slack: float) -> Bools:
    """Return which corners of closed rings remain if lines may stray by `slack`.

    Args:
        corners: fp32 [N, 2], contiguous, the rings one after the other.
        ends: int64 [rings], where each one ends; the last one is N.
        slack: In pixels.

    Returns:
        bool [N].
    """
    lengths = np.diff(ends, prepend=0)
    if corners.dtype != np.float32 or not corners.flags.c_contiguous or corners.shape[1:] != (2,):
        raise ValueError(f"corners: fp32 [N, 2], not {corners.dtype} {corners.shape}")
    if ends.dtype != np.int64 or (lengths < 0).any() or lengths.sum() != len(corners):
        raise ValueError("ends: rising int64 numbers, the last one of all corners")

    kept = np.zeros(len(corners), np.bool_)
    longest = int(lengths.max(initial=0))
    stack = np.empty(2 * (longest + 1), np.int64)
    pointers = _at(corners), _at(ends), ctypes.c_int64(len(ends))
    load().simplify(*pointers, ctypes.c_double(slack), _at(kept), _at(stack))
    return kept


def _at(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _sizes(sizes: tuple[int, ...]) -> list[ctypes.c_int64]:
    return [ctypes.c_int64(size) for size in sizes]
