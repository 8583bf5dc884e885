"""How a cached embedding's tensors are written: small, and read again faster than fp16 comes out of Redis.

A coding has a name, kept in the entry beside the tensor's shape:

    f2   fp16, little-endian, as it is: for what the other does not suit (few values, infinities, NaN, extreme ranges)
    q1   integers, predicted from their neighbours, what is left coded by rANS (kernel/tensors.c)

q1 is lossy. A tensor is cut into planes, its last two dimensions. A plane's step is the geometric mean of the plane's
and the tensor's standard deviation, divided by FINENESS: between equal noise in every channel (the least for so many
bytes) and noise in proportion to the channel (safe where one channel dwarfs the others). Steps are powers of 2^(1/4),
and offsets whole steps, so that a tensor that was read is written again as the same integers.

A body of q1, little-endian: words u32, integers apart u32, weights i16[4] in 256ths; of each plane step i16 in quarters
of an octave, offset i16 in steps, level u16; of each 16 planes integers apart u32; these i16[]; the words u16[].
docs/decisions/0007 has the figures.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from samserve.core.arrays import Array, Doubles, Floats, Halves, Shorts
from samserve.native.loader import library

Body = list[bytes | memoryview]  # pieces, one after another
Coding = Literal["small", "exact"]  # q1 where it suits; f2 throughout

FINENESS = (
    42  # steps to a standard deviation: masks' mean IoU with fp32's is .995 or more (decision 0007)
)
LEAST_VALUES, MOST_WIDTH = 4096, 1024  # of a tensor that q1 suits
LEAST_SHARE = 1 / 64  # of the tensor's deviation that a plane is taken to have

_LANES, _GROUP, _BITS, _CONTEXTS, _MOST_INTEGER = 16, 4, 11, 22, 8191  # as in tensors.c
_PREFIX = struct.Struct("<II4h")
_STEPS = (-160, 80)  # what fp16 can need
_TRIANGLE = tuple(np.tril_indices(5))


def encode(tensor: Halves, coding: Coding = "small") -> tuple[str, Body]:
    """The name of a tensor's coding, and its body: the smaller of q1, if it suits, and f2; or f2 to be exact."""
    values = np.asarray(tensor, "<f2", order="C")
    body = _quantised(values) if coding == "small" and _suits(values.shape) else None
    if body is None or sum(memoryview(piece).nbytes for piece in body) >= values.nbytes:
        return "f2", [values.data]
    return "q1", body


def decode(coding: str, shape: Sequence[int], body: memoryview) -> Halves:
    """The tensor. Raises ValueError if the coding is not known, or the body not one of this shape."""
    match coding:
        case "f2":
            return np.frombuffer(body, "<f2").reshape(shape)
        case "q1":
            return _restored(tuple(shape), body)
        case _:
            raise ValueError(f"the coding {coding!r} is not known")


@dataclass(frozen=True, slots=True)
class _Shape:
    """A tensor as planes; of few and high planes bands are made, so that many can be coded side by side."""

    planes: int
    height: int
    width: int

    @property
    def size(self) -> int:
        return self.height * self.width

    @property
    def vectors(self) -> int:
        return -(-self.planes // _LANES)

    def per_lane(self, values: Array, rest: float) -> Floats:
        """[planes] -> fp32 [vectors * 16], the lanes without a plane filled with `rest`."""
        lanes = np.full(self.vectors * _LANES, rest, np.float32)
        lanes[: self.planes] = values
        return lanes


def _suits(shape: tuple[int, ...]) -> bool:
    return len(shape) >= 2 and prod(shape) >= LEAST_VALUES and shape[-1] <= MOST_WIDTH


def _shape(shape: tuple[int, ...]) -> _Shape:
    planes, height, width = prod(shape[:-2]), *shape[-2:]
    while planes < _LANES * _GROUP and height % 2 == 0 and height >= 64:
        planes, height = planes * 2, height // 2
    return _Shape(planes, height, width)


def _quantised(values: Halves) -> Body | None:
    """A body of q1, or None if the values do not suit it."""
    shape = _shape(values.shape)
    planes = values.reshape(shape.planes, shape.size)
    sums = np.zeros((shape.planes, 4), np.float32)
    _kernel().measure(_at(planes), _int(shape.planes), _int(shape.size), _at(sums))
    total, squares, least, most = sums.astype(np.float64).T
    if not np.isfinite(squares).all():
        return None
    first = planes[:, 0].astype(np.float64)
    means = first + total / shape.size
    variances = np.maximum(squares / shape.size - (total / shape.size) ** 2, 0)
    common = np.sqrt(variances.mean())
    if common == 0:
        return None
    deviations = np.maximum(np.sqrt(variances), common * LEAST_SHARE)
    quarters = np.rint(4 * np.log2(np.sqrt(deviations * common) / FINENESS)).astype(np.int16)
    steps = _steps(quarters)
    offsets = np.rint(means / steps)
    reach = np.maximum(np.abs(first + least - means), np.abs(first + most - means)) / steps
    if reach.max() > _MOST_INTEGER - 1 or np.abs(offsets).max() > 32767:
        return None
    weights, rest = _prediction(planes, shape, means, steps, variances)
    levels = np.clip(
        np.rint(4.5 * np.sqrt(rest)), 1, 60000
    )  # six times the mean magnitude of what is left
    return _written(planes, shape, quarters, offsets, levels, weights)


def _prediction(
    planes: Halves,
    shape: _Shape,
    means: Doubles,
    steps: Floats,
    variances: Doubles,
) -> tuple[Shorts, Doubles]:
    """The weights of left, upper, upper left and upper right, in 256ths, that leave least; of each plane the variance
    of what they leave, in steps.
    """
    samples = len(range(1, shape.height, 4)) * max(0, (shape.width - 2) // _LANES) * _LANES
    if not samples:
        return np.zeros(4, np.int16), variances / steps.astype(np.float64) ** 2
    products = np.zeros((shape.planes, 15), np.float32)
    sizes = _int(shape.planes), _int(shape.height), _int(shape.width)
    _kernel().correlate(_at(planes), *sizes, _at(means.astype(np.float32)), _at(products))
    moments = np.zeros((shape.planes, 5, 5))
    moments[:, _TRIANGLE[0], _TRIANGLE[1]] = moments[:, _TRIANGLE[1], _TRIANGLE[0]] = products
    moments /= samples * steps.astype(np.float64)[:, None, None] ** 2
    whole = moments.mean(0) + np.eye(5) / 12  # and the noise of rounding
    best = np.linalg.solve(whole[:4, :4], whole[:4, 4])
    weights = np.rint(256 * np.clip(best, -1.98, 1.98)).astype(np.int16)
    against = np.append(-weights / 256, 1.0)
    return weights, np.maximum(moments @ against @ against, 0) + against @ against / 12


def _written(
    planes: Halves,
    shape: _Shape,
    quarters: Shorts,
    offsets: Doubles,
    levels: Doubles,
    weights: Shorts,
) -> Body | None:
    apart = np.empty(planes.size // 16 + _LANES, np.int16)
    counts = np.zeros(shape.vectors, np.int32)
    words = np.empty(planes.size + 8 * _LANES * (shape.vectors + _GROUP), np.uint16)
    length = _run(
        "to_words",
        _Writing,
        planes=shape.planes,
        height=shape.height,
        width=shape.width,
        size=shape.size,
        values=planes,
        inverses=shape.per_lane(1 / _steps(quarters), 1),
        offsets=shape.per_lane(offsets, 0),
        levels=shape.per_lane(levels, 1),
        weights=(weights / 256).astype(np.float32),
        codes=_tables()[0],
        memory=_vectors(4 * (shape.width + 2)),
        chosen=np.empty(_GROUP * shape.size * _LANES, np.uint32),
        apart=apart,
        most_apart=len(apart),
        counts=counts,
        words=words,
        most_words=len(words),
    )
    if length < 0:
        return None
    number = int(counts.sum())
    return [
        _PREFIX.pack(length + _GROUP * _LANES, number, *weights.tolist()),
        *(a.astype("<i2").data for a in (quarters, offsets)),
        levels.astype("<u2").data,
        counts.astype("<u4").data,
        apart[:number].data,
        words[len(words) - length :].data,
        bytes(2 * _GROUP * _LANES),  # which the reader's last vectors read past the words
    ]


def _restored(whole: tuple[int, ...], body: memoryview) -> Halves:
    if not _suits(whole):
        raise ValueError(f"no tensor of shape {whole} is coded so")
    shape = _shape(whole)
    if len(body) < _PREFIX.size:
        raise ValueError("a tensor's body is cut short")
    length, number, *weights = _PREFIX.unpack_from(body)
    fields = (("<i2", shape.planes), ("<i2", shape.planes), ("<u2", shape.planes))
    parts, at = [], _PREFIX.size
    for kind, count in (*fields, ("<u4", shape.vectors), ("<i2", number), ("<u2", length)):
        if count * int(kind[-1]) > len(body) - at:
            raise ValueError("a tensor's body is cut short")
        parts.append(np.frombuffer(body, kind, count, at))
        at += parts[-1].nbytes
    quarters, offsets, levels, counts, apart, words = parts
    bounds = np.append(0, np.cumsum(counts, dtype=np.int64))
    if (
        at != len(body)
        or bounds[-1] != number
        or levels.min() < 1
        or quarters.min() < _STEPS[0]
        or quarters.max() > _STEPS[1]
    ):
        raise ValueError("a tensor's body is not of its shape")
    out = _vectors(-(-prod(whole) // (2 * _LANES))).view(np.float16)[: prod(whole)].reshape(whole)
    failed = _run(
        "from_words",
        _Reading,
        planes=shape.planes,
        height=shape.height,
        width=shape.width,
        size=shape.size,
        steps=shape.per_lane(_steps(quarters), 1),
        offsets=shape.per_lane(offsets, 0),
        levels=shape.per_lane(levels, 1),
        weights=np.array(weights, np.float32) / 256,
        table=_tables()[1],
        apart=apart,
        bounds=bounds,
        memory=_vectors(_GROUP * 2 * (shape.width + 1)),
        out=out,
        words=words,
        count=length,
    )
    if failed:
        raise ValueError("a tensor's body cannot be read")
    return out


def _steps(quarters: Shorts) -> Floats:
    return np.exp2(quarters / 4.0).astype(np.float32)


def _vectors(count: int) -> Floats:
    """Room for vectors, aligned to them."""
    room = np.empty((count + 1) * _LANES, np.float32)
    return room[-room.ctypes.data % 64 // 4 :]


@cache
def _tables() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """For writing, [contexts, 256]: first << 16 | frequency; for reading, [contexts, 2048]: symbol - 128
    << 24 | frequency << 12 | place in it. They are part of the coding: every machine must make the same.
    """
    codes = np.zeros((_CONTEXTS, 256), np.uint32)
    slots = np.zeros((_CONTEXTS, 1 << _BITS), np.uint32)
    for context in range(_CONTEXTS):
        first = 0
        for symbol, often in _frequencies(context).items():
            codes[context, symbol] = first << 16 | often
            places = np.arange(often, dtype=np.uint32)
            slots[context, first : first + often] = (
                ((symbol - 128) & 0xFF) << 24 | often << 12 | places
            )
            first += often
    return codes, slots


def _frequencies(context: int) -> dict[int, int]:
    """How often each symbol is, of 2048, by a logistic distribution of the leftovers whose unrest led to this context.

    Only what IEEE 754 rounds exactly is used here, for the result must be the same everywhere.
    """
    unrest = (1 << context // 2) * (1.25 if context % 2 == 0 else 1.75)
    scale = 0.95 * unrest / 12 / 1.3863  # of the distribution; a mean magnitude is 1.3863 of it
    most = min(127, int(10 * scale) + 3)
    root = _exponential(-0.5 / scale)
    tails, power = [], root  # P(leftover > k + 1/2)
    for _ in range(most + 1):
        tails.append(power / (1 + power))
        power *= root * root
    free = (1 << _BITS) - (2 * most + 2)  # each symbol has one at least
    bounds = [0, *(int(free * (0.5 - t) + 0.5) for t in tails)]  # from the middle outwards
    outwards = [1 + b - a for a, b in pairwise(bounds[1:])]
    frequencies = {
        128 + sign * (k + 1): often for k, often in enumerate(outwards) for sign in (1, -1)
    }
    frequencies[128] = 1 + 2 * bounds[1]
    frequencies[0] = (1 << _BITS) - sum(frequencies.values())
    return dict(sorted(frequencies.items()))


def _exponential(x: float) -> float:
    """e^x for x <= 0, by exactly rounded operations alone."""
    small, power, total = x / 1024, 1.0, 1.0
    for k in range(1, 12):
        power *= small / k
        total += power
    for _ in range(10):
        total *= total
    return total


def _at(array: Array) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)  # which keeps the array alive


def _int(value: int) -> ctypes.c_int64:
    return ctypes.c_int64(value)


class _Writing(ctypes.Structure):
    """Mirrors Writing in tensors.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("planes", "height", "width", "size")),
        *(
            (name, ctypes.c_void_p)
            for name in ("values", "inverses", "offsets", "levels", "weights", "codes")
        ),
        *((name, ctypes.c_void_p) for name in ("memory", "chosen", "apart")),
        ("most_apart", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("counts", "words")),
        ("most_words", ctypes.c_int64),
    )


class _Reading(ctypes.Structure):
    """Mirrors Reading in tensors.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("planes", "height", "width", "size")),
        *(
            (name, ctypes.c_void_p)
            for name in ("steps", "offsets", "levels", "weights", "table", "apart", "bounds")
        ),
        *((name, ctypes.c_void_p) for name in ("memory", "out", "words")),
        ("count", ctypes.c_int64),
    )


def _run(name: str, kind: type[ctypes.Structure], **values: Array | int) -> int:
    """Give a pass of the kernel its numbers and arrays by name; they live until it is done."""
    job = kind(**{key: v if isinstance(v, int) else v.ctypes.data for key, v in values.items()})
    return int(getattr(_kernel(), name)(ctypes.byref(job)))


@cache
def _kernel() -> ctypes.CDLL:
    kernel = library(Path(__file__).parent / "kernel")
    kernel.measure.restype = kernel.correlate.restype = None
    kernel.to_words.restype = kernel.from_words.restype = ctypes.c_int64
    return kernel
