"""COCO's run-length encoding of masks, compressed as pycocotools writes and reads it. Pure.

A mask is read column by column; counts are the lengths of its runs, the first of background (perhaps 0). Compressed,
each count from the fourth on is written less the one two before it, in groups of five bits, low first, plus 48; a
group's sixth bit says that another follows, and the last group's fifth bit is the sign.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Counts = NDArray[np.int64]
Bytes = NDArray[np.uint8]


def encode_rle(mask: Mask) -> bytes:
    """bool [H, W] -> compressed counts."""
    return compress(counts_of(mask))


def decode_rle(compressed: bytes, height: int, width: int) -> Mask:
    """Compressed counts -> bool [height, width]. Raises ValueError if they are of another size."""
    counts = decompress(compressed)
    if counts.sum() != height * width:
        raise ValueError(f"the run lengths cover {counts.sum()} pixels, not {height} x {width}")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def counts_of(mask: Mask) -> Counts:
    """bool [H, W] -> run lengths."""
    flat = np.ravel(mask, order="F")
    turns = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(turns, prepend=0, append=flat.size)
    return np.concatenate([[0], counts]) if flat.size and flat[0] else counts


def compress(counts: Counts) -> bytes:
    """Run lengths -> COCO's string."""
    rest = counts.astype(np.int64)
    rest[3:] -= counts[1:-2]
    groups, present = [], []
    going_on = np.ones(len(rest), bool)
    while going_on.any():
        group = rest & 0x1F
        rest = rest >> 5
        more = np.where(group & 0x10, rest != -1, rest != 0)
        groups.append((group | (more << 5)) + 48)
        present.append(going_on)
        going_on = going_on & more
    text: Bytes = np.stack(groups, 1)[np.stack(present, 1)].astype(np.uint8)
    return text.tobytes()


def decompress(compressed: bytes) -> Counts:
    """COCO's string -> run lengths."""
    groups = np.frombuffer(compressed, np.uint8).astype(np.int64) - 48
    last = (groups & 0x20) == 0
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    shift = 5 * (np.arange(len(groups)) - np.repeat(starts, ends - starts + 1))
    counts = np.add.reduceat((groups & 0x1F) << shift, starts) if len(groups) else np.zeros(0, np.int64)
    negative = (groups[ends] & 0x10) != 0
    counts = np.where(negative, counts - (1 << (shift[ends] + 5)), counts)
    counts[1::2] = np.cumsum(counts[1::2])  # the third, fifth... after the first build on it, and so the even ones on
    counts[2::2] = np.cumsum(counts[2::2])  # the second; the very first stands alone
    return counts
