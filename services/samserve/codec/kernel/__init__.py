"""The compiled passes of the codec, from tensors.c."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np

from samserve.core.arrays import Array, Floats, Halves
from samserve.native.arrays import Kind, address, check
from samserve.native.loader import library

LANES = 16  # planes that are coded side by side
GROUP = 4  # vectors of planes that share a stream of words
MOST_INTEGER = 8191  # largest magnitude of a quantised value
CONTEXTS = 22  # each with its own frequency table
SLOTS = 2048  # of a frequency table
SYMBOLS = 256
VECTOR_BYTES = 64
WEIGHTS = 4  # of the prediction


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
    number, size = planes.shape
    values = address(planes, "planes", np.float16, number * size)
    load().measure(ctypes.c_void_p(values), *_sizes(planes.shape), _at(sums))
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
    values = address(planes, "planes", np.float16, len(planes) * height * width)
    offsets = address(means, "means", np.float32, len(planes))
    pointers = ctypes.c_void_p(values), *sizes, ctypes.c_void_p(offsets), _at(products)
    load().correlate(*pointers)
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

    Raises:
        ValueError: An array is not of the type and size that the kernel relies on.
    """
    planes, width, size, lanes = _check_planes(values)
    wanted: dict[str, tuple[Kind, Array | int]] = {
        "values": (np.float16, planes * size),
        "inverses": (np.float32, lanes),
        "offsets": (np.float32, lanes),
        "levels": (np.float32, lanes),
        "weights": (np.float32, WEIGHTS),
        "codes": (np.uint32, CONTEXTS * SYMBOLS),
        "memory": (np.float32, 4 * (width + 2) * LANES),
        "chosen": (np.uint32, GROUP * size * LANES),
        "apart": (np.int16, values["most_apart"]),
        "counts": (np.int32, lanes // LANES),
        "words": (np.uint16, values["most_words"]),
    }
    return _run("to_words", Writing, values, wanted)


def from_words(**values: Array | int) -> bool:
    """Decode words to planes; the fields of Reading as keywords.

    Returns:
        Whether the words are valid for this shape.

    Raises:
        ValueError: An array is not of the type and size that the kernel relies on.
    """
    planes, width, size, lanes = _check_planes(values)
    wanted: dict[str, tuple[Kind, Array | int]] = {
        "steps": (np.float32, lanes),
        "offsets": (np.float32, lanes),
        "levels": (np.float32, lanes),
        "weights": (np.float32, WEIGHTS),
        "table": (np.uint32, CONTEXTS * SLOTS),
        "apart": (np.int16, _array(values, "apart").size),
        "bounds": (np.int64, lanes // LANES + 1),
        "memory": (np.float32, GROUP * 2 * (width + 1) * LANES),
        "out": (np.float16, planes * size),
        "words": (np.uint16, values["count"]),
    }
    bounds = _array(values, "bounds")
    check(
        bounds[0] >= 0 and bounds[-1] <= wanted["apart"][1] and bool((np.diff(bounds) >= 0).all()),
        "the bounds of the escapes do not lie in order within them",
    )
    check(float(_array(values, "levels").min()) >= 1, "a plane's level is less than 1")
    return _run("from_words", Reading, values, wanted) == 0


def vectors(count: int) -> Floats:
    """Return uninitialised memory for so many vectors, aligned to them."""
    room = np.empty((count + 1) * LANES, np.float32)
    return room[-room.ctypes.data % VECTOR_BYTES // 4 :][: count * LANES]


def _check_planes(values: Mapping[str, Array | int]) -> tuple[int, int, int, int]:
    """Return planes, width and size of a plane, and the lanes of all planes. Raises ValueError."""
    planes, height, width, size = (
        int(values[name]) for name in ("planes", "height", "width", "size")
    )
    check(
        min(planes, height, width) > 0 and size == height * width,
        f"{planes} planes of {height} x {width} values are no planes of {size}",
    )
    check(_array(values, "memory").ctypes.data % VECTOR_BYTES == 0, "the memory is not aligned")
    return planes, width, size, -(-planes // LANES) * LANES


def _array(values: Mapping[str, Array | int], name: str) -> Array:
    array = values[name]
    check(not isinstance(array, int), f"{name} is a number")
    return np.asarray(array)


def _run(
    name: str,
    kind: type[ctypes.Structure],
    values: Mapping[str, Array | int],
    wanted: Mapping[str, tuple[Kind, Array | int]],
) -> int:
    """Call a pass with a structure of numbers and of arrays, which stay alive meanwhile.

    Args:
        name: Of the pass.
        kind: The structure.
        values: Its fields.
        wanted: Type and size of each array.
    """
    numbers = {key: value for key, value in values.items() if key not in wanted}
    arrays = {
        key: address(_array(values, key), key, element, int(size))
        for key, (element, size) in wanted.items()
    }
    return int(getattr(load(), name)(ctypes.byref(kind(**numbers, **arrays))))


def _sizes(shape: tuple[int, ...]) -> list[ctypes.c_int64]:
    return [ctypes.c_int64(size) for size in shape]


def _at(array: Array) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)  # keeps the array alive
