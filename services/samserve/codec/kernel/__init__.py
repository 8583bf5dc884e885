"""The compiled passes of the codec, from tensors.c."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import numpy as np

from samserve.core.arrays import Array, Floats, Halves
from samserve.native.loader import library

LANES = 16  # planes that are coded side by side
GROUP = 4  # vectors of planes that share a stream of words
MOST_INTEGER = 8191  # largest magnitude of a quantised value


@cache
def load() -> ctypes.CDLL:
    """Load the library for this CPU."""
    kernel = library(Path(__file__).parent)
    kernel.measure.restype = kernel.correlate.restype = None
    kernel.to_words.restype = kernel.from_words.restype = ctypes.c_int64
    return kernel


def measure(planes: Halves) -> Floats:
    """Return the statistics of each plane.

    Args:
        planes: fp16 [planes, size], contiguous.

    Returns:
        fp32 [planes, 4]: sum, sum of squares, least and greatest of the values less the first one.
        The sum of squares is not finite if a value is not.
    """
    sums = np.zeros((len(planes), 4), np.float32)
    load().measure(_at(planes), *_sizes(planes.shape), _at(sums))
    return sums


def correlate(planes: Halves, height: int, width: int, means: Floats) -> Floats:
    """Return the products of each value with its neighbours, summed over samples of each plane.

    Args:
        planes: fp16 [planes, height * width], contiguous.
        height: Rows of a plane.
        width: Columns of a plane.
        means: fp32 [planes], taken off all values.

    Returns:
        fp32 [planes, 15]: the lower triangle of a symmetric 5 x 5 matrix. Its rows are the left,
        upper, upper left and upper right neighbours and the value itself.
    """
    products = np.zeros((len(planes), 15), np.float32)
    sizes = _sizes((len(planes), height, width))
    load().correlate(_at(planes), *sizes, _at(means), _at(products))
    return products


class Writing(ctypes.Structure):
    """Mirrors Writing in tensors.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("planes", "height", "width", "size")),
        *((name, ctypes.c_void_p) for name in ("values", "inverses", "offsets", "levels")),
        *((name, ctypes.c_void_p) for name in ("weights", "codes", "memory", "chosen", "apart")),
        ("most_apart", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("counts", "words")),
        ("most_words", ctypes.c_int64),
    )


class Reading(ctypes.Structure):
    """Mirrors Reading in tensors.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("planes", "height", "width", "size")),
        *((name, ctypes.c_void_p) for name in ("steps", "offsets", "levels", "weights")),
        *((name, ctypes.c_void_p) for name in ("table", "apart", "bounds", "memory")),
        *((name, ctypes.c_void_p) for name in ("out", "words")),
        ("count", ctypes.c_int64),
    )


def to_words(**values: Array | int) -> int:
    """Code planes as words; the fields of Writing as keywords.

    Returns:
        The number of words, at the end of `words`, or -1 if something does not fit.
    """
    return _run("to_words", Writing, values)


def from_words(**values: Array | int) -> bool:
    """Decode words to planes; the fields of Reading as keywords.

    Returns:
        Whether the words are valid for this shape.
    """
    return _run("from_words", Reading, values) == 0


def vectors(count: int) -> Floats:
    """Return uninitialised memory for so many vectors, aligned to them."""
    room = np.empty((count + 1) * LANES, np.float32)
    return room[-room.ctypes.data % 64 // 4 :]


def _run(name: str, kind: type[ctypes.Structure], values: dict[str, Array | int]) -> int:
    """Call a pass with a structure of numbers and of arrays, which stay alive meanwhile."""
    job = kind(**{key: v if isinstance(v, int) else v.ctypes.data for key, v in values.items()})
    return int(getattr(load(), name)(ctypes.byref(job)))


def _sizes(shape: tuple[int, ...]) -> list[ctypes.c_int64]:
    return [ctypes.c_int64(size) for size in shape]


def _at(array: Array) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)  # keeps the array alive
