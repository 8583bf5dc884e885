"""Masks as Label Studio's brush regions store them. Pure.

The format packs bytes as packets of bits, the highest bit first: 32 bits for the number of values,
5 bits for the size of a value less 1, and four times 4 bits for the sizes of a length less 1. A
packet of equal values is a bit 1, the number of its length's size in 2 bits, the length less 1, and
the value. The last byte is padded with zeros.

The values are pixels, RGBA, row by row. All four are 255 on the object and 0 elsewhere. So a run of
pixels is one packet of four times as many values, and the image's values are never allocated.
"""

from __future__ import annotations

import numpy as np

from samserve.core.arrays import Bytes, Ints
from samserve.core.runs import Runs, row_changes

CHANNELS = 4
ON = 255
VALUE_BITS = 8
LENGTH_BITS = np.array([3, 4, 8, 16])
LONGEST = 2 ** int(LENGTH_BITS[-1])  # values of a packet
WINDOW = 5  # bytes that a packet of at most 27 bits can touch


def encode_brush(mask: Runs) -> list[int]:
    """Return a mask's packed bytes, as `value.rle` lists them."""
    lengths, values = _packets(mask)

    # A packet's bits as a number: 1, size index, length - 1, value.
    size = np.searchsorted(2**LENGTH_BITS, lengths)
    length_bits = LENGTH_BITS[size]
    head = (0b100 | size) << length_bits | (lengths - 1)
    codes = head << VALUE_BITS | values
    code_bits = 3 + length_bits + VALUE_BITS

    head_codes, head_bits = _header(mask.height * mask.width * CHANNELS)
    packed = _pack(np.append(head_codes, codes), np.append(head_bits, code_bits))
    return list(packed.tobytes())


def _packets(mask: Runs) -> tuple[Ints, Ints]:
    """Return the lengths and the values of the packets: runs, cut where they are too long."""
    pixels = mask.height * mask.width
    lengths = CHANNELS * np.diff(row_changes(mask), prepend=0, append=pixels)
    values = np.arange(len(lengths)) % 2 * ON

    number = -(-lengths // LONGEST)  # none for an empty first run
    packets = np.full(number.sum(), LONGEST)
    last = np.cumsum(number)[number > 0] - 1
    packets[last] = (lengths - (number - 1) * LONGEST)[number > 0]
    return packets, np.repeat(values, number)


def _header(count: int) -> tuple[Ints, Ints]:
    """Return what is before the packets as codes and their numbers of bits."""
    sizes = LENGTH_BITS - 1
    codes = np.array([count >> 16, count & 0xFFFF, VALUE_BITS - 1, *sizes])
    return codes, np.array([16, 16, 5, *[4] * len(sizes)])


def _pack(codes: Ints, code_bits: Ints) -> Bytes:
    """Return codes of these numbers of bits, one after the other, the highest bit first."""
    ends = np.cumsum(code_bits)
    starts = ends - code_bits

    # Align each code in a window of bytes around its place, and add the windows up: no two overlap.
    first = starts // 8
    aligned = codes << (8 * WINDOW - code_bits - starts % 8)
    packed = np.zeros(int(ends[-1] + 7) // 8 + WINDOW, np.uint8)
    for byte in range(WINDOW):
        part = (aligned >> 8 * (WINDOW - 1 - byte) & 0xFF).astype(np.uint8)
        np.bitwise_or.at(packed, first + byte, part)
    return packed[: int(ends[-1] + 7) // 8]
