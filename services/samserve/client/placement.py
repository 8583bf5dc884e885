"""Which decoder gets a call: the one that has the image ready, unless it is busy or silent.

Rendezvous hashing with bounded load: each image has its own order of all decoders, and the
first fit one gets the call. When a decoder leaves, only its images move; when one joins, only those
that rank it first. Pure, but for the clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TypeVar

BALANCE = 2.0  # times the mean of the calls in progress that one decoder may have
MOST_MISSES = 3  # in a row, after which a decoder is left out
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 30.0  # seconds that it is left out


@dataclass(slots=True, eq=False)
class Candidate:
    """A decoder, as one client sees it.

    Attributes:
        address: `host:port`.
        calls: Of this client in progress, without idle streams.
        misses: Calls in a row that it did not answer.
        back_at: When it gets calls again, by the monotonic clock.
    """

    address: str
    calls: int = 0
    misses: int = 0
    back_at: float = field(default=0.0)

    def note_answer(self) -> None:
        """It answered, whatever it said."""
        self.misses = 0
        self.back_at = 0.0

    def note_miss(self, *, unreachable: bool) -> None:
        """It did not answer in time, or cannot be reached, which is certain at once."""
        self.misses = max(self.misses + 1, MOST_MISSES if unreachable else 0)
        if self.misses >= MOST_MISSES:
            pause = min(FIRST_PAUSE * 2.0 ** (self.misses - MOST_MISSES), LONGEST_PAUSE)
            self.back_at = time.monotonic() + pause


Some = TypeVar("Some", bound=Candidate)


def choose(candidates: Sequence[Some], key: str, tried: Collection[Candidate] = ()) -> Some:
    """Return the decoder for a call.

    Args:
        candidates: At least one.
        key: Of the image.
        tried: Those that have an attempt of this call already; taken again if there is no other.
    """
    now = time.monotonic()
    left = [each for each in candidates if each not in tried] or list(candidates)
    fit = [each for each in left if each.back_at <= now] or left
    mean = (sum(each.calls for each in fit) + 1) / len(fit)
    most = math.ceil(BALANCE * mean)

    ranked = sorted(fit, key=lambda each: rank(each.address, key))
    return next((each for each in ranked if each.calls < most), ranked[0])


def rank(address: str, key: str) -> bytes:
    """Return the place of a decoder in the order of an image; the smallest comes first."""
    return blake2b(f"{address} {key}".encode(), digest_size=8).digest()
