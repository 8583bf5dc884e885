"""COCO's run-length encoding of masks, compressed as pycocotools does it. Pure.

A mask is read column by column. Its counts are the lengths of its runs; the first run is
background and may be empty.

Compressed, each count from the fourth on is replaced by its difference to the count two before it.
A number is written in groups of five bits, the lowest first, plus 48. The sixth bit of a group says
that another group follows; the fifth bit of the last group is the sign.
"""

from __future__ import annotations

import numpy as np

from samserve.core.arrays import Bytes, Ints
from samserve.core.runs import Mask, Runs, counts

MOST_GROUP = 0x3F


def encode_rle(runs: Runs) -> bytes:
    """Return a mask's compressed counts."""
    return compress(counts(runs))


def decode_rle(compressed: bytes, height: int, width: int) -> Mask:
    """Return the mask of compressed counts, bool [height, width].

    Raises:
        ValueError: The counts are damaged, or belong to another size.
    """
    lengths = check_lengths(decompress(compressed), height, width)
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(width, height).T


def read_rle(compressed: bytes, height: int, width: int) -> Runs:
    """Return the runs of compressed counts. Raises as `decode_rle`."""
    return runs_of_lengths(decompress(compressed), height, width)


def runs_of_lengths(lengths: Ints, height: int, width: int) -> Runs:
    """Return the runs of COCO's uncompressed counts. Raises as `decode_rle`."""
    places = np.cumsum(check_lengths(lengths, height, width))

    # A run of no pixels begins and ends at one place, where nothing changes.
    changes, times = np.unique(places, return_counts=True)
    changes = changes[times % 2 == 1]
    return Runs(height, width, changes[changes < height * width])


def check_lengths(lengths: Ints, height: int, width: int) -> Ints:
    """Return run lengths that make a mask of this size. Raises as `decode_rle`."""
    pixels = height * width
    if ((lengths < 0) | (lengths > pixels)).any():  # so the sum below does not overflow
        raise ValueError(f"a run length is negative or over {pixels:,} pixels")
    if lengths.sum() != pixels:
        raise ValueError(f"the run lengths cover {lengths.sum()} pixels, not {height} x {width}")
    return lengths


def compress(lengths: Ints) -> bytes:
    """Return COCO's string for run lengths."""
    rest = lengths.astype(np.int64)
    rest[3:] -= lengths[1:-2]

    # The n-th groups of all numbers at once, until no number has bits left.
    groups, present = [], []
    unfinished = np.ones(len(rest), bool)
    while unfinished.any():
        group = rest & 0x1F
        rest = rest >> 5
        more = np.where(group & 0x10, rest != -1, rest != 0)
        groups.append((group | (more << 5)) + 48)
        present.append(unfinished)
        unfinished = unfinished & more

    text: Bytes = np.stack(groups, 1)[np.stack(present, 1)].astype(np.uint8)
    return text.tobytes()


def decompress(compressed: bytes) -> Ints:
    """Return the run lengths of COCO's string. Raises ValueError."""
    # Where each number's groups begin and end.
    groups = np.frombuffer(compressed, np.uint8).astype(np.int64) - 48
    if ((groups < 0) | (groups > MOST_GROUP)).any() or (len(groups) and groups[-1] & 0x20):
        raise ValueError("the run lengths are truncated or no text of COCO's")
    ends = np.flatnonzero((groups & 0x20) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])

    # Put the groups of each number together, then apply its sign.
    shift = 5 * (np.arange(len(groups)) - np.repeat(starts, ends - starts + 1))
    lengths = (
        np.add.reduceat((groups & 0x1F) << shift, starts) if len(groups) else np.zeros(0, np.int64)
    )
    negative = (groups[ends] & 0x10) != 0
    lengths = np.where(negative, lengths - (1 << (shift[ends] + 5)), lengths)

    # Undo the differences: odd and even places add up separately, without the very first.
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    return lengths
