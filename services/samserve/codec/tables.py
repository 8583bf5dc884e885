"""The frequency tables of the rANS coder, one for each context.

The tables are part of the coding: every machine must compute the same ones. So only operations that
IEEE 754 rounds exactly are used here.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from samserve.codec.kernel import CONTEXTS

# As in kernel/tensors.c.
BITS = 11  # frequencies add up to 2^11
MIDDLE = 128  # the symbol of residual 0; symbol 0 is the escape

Words = NDArray[np.uint32]


@cache
def coding_tables() -> tuple[Words, Words]:
    """Return the tables that the kernel writes and reads with.

    Returns:
        For writing, [CONTEXTS, 256]: first slot << 16 | frequency.
        For reading, [CONTEXTS, 2048]: symbol - MIDDLE << 24 | frequency << 12 | slot's place in the
        symbol.
    """
    codes = np.zeros((CONTEXTS, 256), np.uint32)
    slots = np.zeros((CONTEXTS, 1 << BITS), np.uint32)

    for context in range(CONTEXTS):
        first = 0
        for symbol, frequency in _frequencies(context).items():
            codes[context, symbol] = first << 16 | frequency
            places = np.arange(frequency, dtype=np.uint32)
            head = ((symbol - MIDDLE) & 0xFF) << 24 | frequency << 12
            slots[context, first : first + frequency] = head | places
            first += frequency
    return codes, slots


def _frequencies(context: int) -> dict[int, int]:
    """Return the frequency of each symbol, of 2048 in all.

    Residuals are taken to have a logistic distribution, as wide as the activity around them that
    leads to this context.
    """
    activity = (1 << context // 2) * (1.25 if context % 2 == 0 else 1.75)
    scale = 0.95 * activity / 12 / 1.3863  # of the distribution; its mean magnitude is 1.3863 times
    most = min(127, int(10 * scale) + 3)  # larger residuals are escaped

    # P(residual > k + 1/2), for k from 0 on.
    root = _exponential(-0.5 / scale)
    tails, power = [], root
    for _ in range(most + 1):
        tails.append(power / (1 + power))
        power *= root * root

    # Share out the slots, from the middle outwards; each symbol has at least one.
    free = (1 << BITS) - (2 * most + 2)
    bounds = [0, *(int(free * (0.5 - tail) + 0.5) for tail in tails)]
    outwards = [1 + b - a for a, b in pairwise(bounds[1:])]
    frequencies = {
        MIDDLE + sign * (k + 1): frequency
        for k, frequency in enumerate(outwards)
        for sign in (1, -1)
    }
    frequencies[MIDDLE] = 1 + 2 * bounds[1]
    frequencies[0] = (1 << BITS) - sum(frequencies.values())
    return dict(sorted(frequencies.items()))


def _exponential(x: float) -> float:
    """Return e^x for x <= 0."""
    # The series for x / 1024, squared ten times.
    small, power, total = x / 1024, 1.0, 1.0
    for k in range(1, 12):
        power *= small / k
        total += power
    for _ in range(10):
        total *= total
    return total
