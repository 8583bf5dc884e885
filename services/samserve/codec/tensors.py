"""The codings of an embedding's tensors: small, and faster to decode than fp16 to fetch from Redis.

The name of a tensor's coding is stored in the entry beside its shape:

    f2   plain fp16, little-endian, for tensors that q1 does not suit: few values, infinities, NaN
         or extreme ranges
    q1   integers, predicted from their neighbours; the residuals are coded by rANS
         (kernel/tensors.c)

q1 is lossy. A tensor is cut into planes, its last two dimensions. The step of a plane is the
geometric mean of two standard deviations, the plane's and the tensor's, divided by FINENESS. That
is a compromise: equal noise in every plane costs the fewest bytes, and noise in proportion to the
plane is safe where one plane dwarfs the others. Steps are powers of 2^(1/4) and offsets are whole
steps, so that a decoded tensor is encoded as the same integers again.

The body of q1, little-endian, "escape" meaning an integer that no symbol stands for:

    number of words u32, number of escapes u32, prediction weights i16[4] in 256ths
    for each plane: step i16 in quarters of an octave
    for each plane: offset i16 in steps
    for each plane: level u16, six times the mean magnitude of its residuals
    for each 16 planes: number of escapes u32
    escapes i16[]
    words u16[]

docs/decisions/0007 has the measurements.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np

from samserve.codec import kernel
from samserve.codec.kernel import GROUP, LANES, MOST_INTEGER
from samserve.codec.tables import coding_tables
from samserve.core.arrays import Array, Doubles, Floats, Halves, Shorts

Body = list[bytes | memoryview]  # pieces, one after another
Coding = Literal["small", "exact"]  # q1 where it suits, or f2 throughout

# Steps to a standard deviation. The masks' mean IoU with those of fp32 is at least .995 (0007).
FINENESS = 42

# Limits of the tensors that q1 suits.
LEAST_VALUES = 4096
MOST_WIDTH = 1024

# A plane counts as having at least this share of the tensor's standard deviation.
LEAST_SHARE = 1 / 64

_PREFIX = struct.Struct("<II4h")
_STEPS = (-160, 80)  # quarters of an octave that fp16 can need
_TRIANGLE = tuple(np.tril_indices(5))


def encode(tensor: Halves, coding: Coding = "small") -> tuple[str, Body]:
    """Encode a tensor.

    Args:
        tensor: fp16 of any shape.
        coding: "small" takes q1 if it suits and is smaller than f2; "exact" takes f2.

    Returns:
        The name of the coding, and the body.
    """
    values = np.asarray(tensor, "<f2", order="C")
    body = _encode_q1(values) if coding == "small" and _suits(values.shape) else None
    if body is None or sum(memoryview(piece).nbytes for piece in body) >= values.nbytes:
        return "f2", [values.data]
    return "q1", body


def decode(coding: str, shape: Sequence[int], body: memoryview) -> Halves:
    """Decode a tensor.

    Raises:
        ValueError: The coding is unknown, or the body is invalid for this shape.
    """
    match coding:
        case "f2":
            return np.frombuffer(body, "<f2").reshape(shape)
        case "q1":
            return _decode_q1(tuple(shape), body)
        case _:
            raise ValueError(f"unknown coding {coding!r}")


@dataclass(frozen=True, slots=True)
class _Planes:
    """The shape of a tensor as planes. Few high planes are cut into bands, to fill the lanes."""

    number: int
    height: int
    width: int

    @property
    def size(self) -> int:
        return self.height * self.width

    @property
    def vectors(self) -> int:
        return -(-self.number // LANES)

    def per_lane(self, values: Array, rest: float) -> Floats:
        """[planes] -> fp32 [vectors * 16], with `rest` in the lanes that have no plane."""
        lanes = np.full(self.vectors * LANES, rest, np.float32)
        lanes[: self.number] = values
        return lanes


def _suits(shape: tuple[int, ...]) -> bool:
    return len(shape) >= 2 and prod(shape) >= LEAST_VALUES and shape[-1] <= MOST_WIDTH


def _planes_of(shape: tuple[int, ...]) -> _Planes:
    number, height, width = prod(shape[:-2]), *shape[-2:]
    while number < LANES * GROUP and height % 2 == 0 and height >= 64:
        number *= 2
        height //= 2
    return _Planes(number, height, width)


def _encode_q1(values: Halves) -> Body | None:
    """Return the body of q1, or None if the values do not suit it."""
    shape = _planes_of(values.shape)
    planes = values.reshape(shape.number, shape.size)

    # Mean and variance of each plane.
    total, squares, least, most = kernel.measure(planes).astype(np.float64).T
    if not np.isfinite(squares).all():
        return None
    first = planes[:, 0].astype(np.float64)
    means = first + total / shape.size
    variances = np.maximum(squares / shape.size - (total / shape.size) ** 2, 0)
    common = np.sqrt(variances.mean())
    if common == 0:
        return None

    # Steps and offsets.
    deviations = np.maximum(np.sqrt(variances), common * LEAST_SHARE)
    quarters = np.rint(4 * np.log2(np.sqrt(deviations * common) / FINENESS)).astype(np.int16)
    steps = _steps(quarters)
    offsets = np.rint(means / steps)

    # The integers must fit.
    reach = np.maximum(np.abs(first + least - means), np.abs(first + most - means)) / steps
    if reach.max() > MOST_INTEGER - 1 or np.abs(offsets).max() > 32767:
        return None

    weights, residuals = _fit_prediction(planes, shape, means, steps, variances)
    levels = np.clip(np.rint(4.5 * np.sqrt(residuals)), 1, 60000)
    return _write(planes, shape, quarters, offsets, levels, weights)


def _fit_prediction(
    planes: Halves, shape: _Planes, means: Doubles, steps: Floats, variances: Doubles
) -> tuple[Shorts, Doubles]:
    """Fit the prediction of a value from its neighbours, by least squares over all planes.

    Returns:
        The weights of the left, upper, upper left and upper right neighbours, in 256ths.
        The variance of each plane's residuals, in steps.
    """
    samples = len(range(1, shape.height, 4)) * max(0, (shape.width - 2) // LANES) * LANES
    if not samples:
        return np.zeros(4, np.int16), variances / steps.astype(np.float64) ** 2

    # Second moments of the neighbours and the value, in steps.
    products = kernel.correlate(planes, shape.height, shape.width, means.astype(np.float32))
    moments = np.zeros((shape.number, 5, 5))
    moments[:, _TRIANGLE[0], _TRIANGLE[1]] = moments[:, _TRIANGLE[1], _TRIANGLE[0]] = products
    moments /= samples * steps.astype(np.float64)[:, None, None] ** 2

    # Least squares, with the noise of rounding to whole steps.
    whole = moments.mean(0) + np.eye(5) / 12
    best = np.linalg.solve(whole[:4, :4], whole[:4, 4])
    weights = np.rint(256 * np.clip(best, -1.98, 1.98)).astype(np.int16)

    against = np.append(-weights / 256, 1.0)
    residuals = np.maximum(moments @ against @ against, 0) + against @ against / 12
    return weights, residuals


def _write(
    planes: Halves,
    shape: _Planes,
    quarters: Shorts,
    offsets: Doubles,
    levels: Doubles,
    weights: Shorts,
) -> Body | None:
    """Return the body, or None if the words or the escapes do not fit."""
    escapes = np.empty(planes.size // 16 + LANES, np.int16)
    counts = np.zeros(shape.vectors, np.int32)
    words = np.empty(planes.size + 8 * LANES * (shape.vectors + GROUP), np.uint16)

    length = kernel.to_words(
        planes=shape.number,
        height=shape.height,
        width=shape.width,
        size=shape.size,
        values=planes,
        inverses=shape.per_lane(1 / _steps(quarters), 1),
        offsets=shape.per_lane(offsets, 0),
        levels=shape.per_lane(levels, 1),
        weights=(weights / 256).astype(np.float32),
        codes=coding_tables()[0],
        memory=kernel.vectors(4 * (shape.width + 2)),
        chosen=np.empty(GROUP * shape.size * LANES, np.uint32),
        apart=escapes,
        most_apart=len(escapes),
        counts=counts,
        words=words,
        most_words=len(words),
    )
    if length < 0:
        return None

    number = int(counts.sum())
    return [
        _PREFIX.pack(length + GROUP * LANES, number, *weights.tolist()),
        quarters.astype("<i2").data,
        offsets.astype("<i2").data,
        levels.astype("<u2").data,
        counts.astype("<u4").data,
        escapes[:number].data,
        words[len(words) - length :].data,
        bytes(2 * GROUP * LANES),  # the decoder's last vectors read past the words
    ]


def _decode_q1(whole: tuple[int, ...], body: memoryview) -> Halves:
    if not _suits(whole):
        raise ValueError(f"invalid shape {whole} for the coding q1")
    if len(body) < _PREFIX.size:
        raise ValueError("the tensor's body is truncated")
    shape = _planes_of(whole)

    # Cut the body into its fields.
    length, number, *weights = _PREFIX.unpack_from(body)
    fields = (
        ("<i2", shape.number),
        ("<i2", shape.number),
        ("<u2", shape.number),
        ("<u4", shape.vectors),
        ("<i2", number),
        ("<u2", length),
    )
    parts, at = [], _PREFIX.size
    for kind, count in fields:
        if count * int(kind[-1]) > len(body) - at:
            raise ValueError("the tensor's body is truncated")
        parts.append(np.frombuffer(body, kind, count, at))
        at += parts[-1].nbytes
    quarters, offsets, levels, counts, escapes, words = parts

    # Check what the kernel relies on.
    bounds = np.append(0, np.cumsum(counts, dtype=np.int64))
    if (
        at != len(body)
        or bounds[-1] != number
        or levels.min() < 1
        or quarters.min() < _STEPS[0]
        or quarters.max() > _STEPS[1]
    ):
        raise ValueError("the tensor's body does not belong to its shape")

    room = kernel.vectors(-(-prod(whole) // (2 * LANES)))
    tensor = room.view(np.float16)[: prod(whole)].reshape(whole)
    valid = kernel.from_words(
        planes=shape.number,
        height=shape.height,
        width=shape.width,
        size=shape.size,
        steps=shape.per_lane(_steps(quarters), 1),
        offsets=shape.per_lane(offsets, 0),
        levels=shape.per_lane(levels, 1),
        weights=np.array(weights, np.float32) / 256,
        table=coding_tables()[1],
        apart=escapes,
        bounds=bounds,
        memory=kernel.vectors(GROUP * 2 * (shape.width + 1)),
        out=tensor,
        words=words,
        count=length,
    )
    if not valid:
        raise ValueError("the tensor's body is damaged")
    return tensor


def _steps(quarters: Shorts) -> Floats:
    return np.exp2(quarters / 4.0).astype(np.float32)
