"""Failed attempts by address, bounded in number. Pure."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

MOST_ADDRESSES = 10_000  # that are remembered; the oldest are forgotten


class Failures:
    """Allows each address some failures at once, and then so many a minute."""

    def __init__(
        self, burst: int, per_minute: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin without failures.

        Args:
            burst: Failures of an address at once.
            per_minute: Further ones.
            clock: Seconds.
        """
        self._burst = burst
        self._rate = per_minute / 60
        self._clock = clock
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()  # failures, when

    def add(self, address: str) -> float:
        """Note a failure; return the seconds until the next one is allowed, 0 if it is now."""
        now = self._clock()
        spent, at = self._spent.pop(address, (0.0, now))
        spent = max(0.0, spent - (now - at) * self._rate) + 1
        self._spent[address] = min(spent, 2.0 * self._burst), now
        if len(self._spent) > MOST_ADDRESSES:
            self._spent.popitem(last=False)
        return 0.0 if spent <= self._burst else math.ceil((spent - self._burst) / self._rate)
