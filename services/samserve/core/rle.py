"""COCO's run-length encoding of masks, compressed as pycocotools writes and reads it. Pure.

A mask is read column by column; counts are the lengths of its runs, the first of background (perhaps 0). Compressed,
each count from the fourth on is written less the one two before it, in groups of five bits, low first, plus 48; a
group's sixth bit says that another follows, and the last group's fifth bit is the sign.
"""

from __future__ import annotations

import numpy as np

from samserve.core.arrays import Bytes, Ints
from samserve.core.runs import Mask, Runs, counts


def encode_rle(runs: Runs) -> bytes:
    """A mask -> compressed counts."""
    return compress(counts(runs))


def decode_rle(compressed: bytes, height: int, width: int) -> Mask:
    """Compressed counts -> bool [height, width]. Raises ValueError if they are of another size."""
    lengths = decompress(compressed)
    if lengths.sum() != height * width:
        raise ValueError(f"the run lengths cover {lengths.sum()} pixels, not {height} x {width}")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(width, height).T


def compress(lengths: Ints) -> bytes:
    """Run lengths -> COCO's string."""
    rest = lengths.astype(np.int64)
    rest[3:] -= lengths[1:-2]
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


def decompress(compressed: bytes) -> Ints:
    """COCO's string -> run lengths."""
    groups = np.frombuffer(compressed, np.uint8).astype(np.int64) - 48
    last = (groups & 0x20) == 0
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    shift = 5 * (np.arange(len(groups)) - np.repeat(starts, ends - starts + 1))
    lengths = (
        np.add.reduceat((groups & 0x1F) << shift, starts) if len(groups) else np.zeros(0, np.int64)
    )
    negative = (groups[ends] & 0x10) != 0
    lengths = np.where(negative, lengths - (1 << (shift[ends] + 5)), lengths)
    lengths[1::2] = np.cumsum(
        lengths[1::2]
    )  # the third, fifth... after the first build on it, and so the even ones on
    lengths[2::2] = np.cumsum(lengths[2::2])  # the second; the very first stands alone
    return lengths
