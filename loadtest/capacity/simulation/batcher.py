"""Triton's dynamic batching: requests that wait a moment for others, and go together."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

from loadtest.capacity.simulation.engine import Machine, Then, Work


class Curve:
    """Seconds of a batch, measured at some sizes and straight between them; beyond the largest, in proportion."""

    def __init__(self, seconds: Mapping[int, float]) -> None:
        self._sizes = sorted(seconds)
        self._seconds = [seconds[size] for size in self._sizes]

    def __call__(self, batch: int) -> float:
        largest = self._sizes[-1]
        if batch > largest:
            return self._seconds[-1] * batch / largest
        return float(np.interp(batch, self._sizes, self._seconds))


class Batcher:
    """Instances of a model that take batches. delay: seconds the oldest waits for others before an instance that is
    free takes what there is. cores: that an instance keeps busy; the curve is of an instance alone on its machine.
    """

    def __init__(
        self,
        machine: Machine,
        curve: Curve,
        most: int,
        delay: float,
        instances: int = 1,
        cores: float = 1.0,
    ) -> None:
        self._machine, self._curve, self._most, self._delay = machine, curve, most, delay
        self._free, self._cores = instances, cores
        self._waiting: deque[tuple[float, Then]] = deque()
        self.batches: list[int] = []

    def submit(self, then: Then) -> None:
        self._waiting.append((self._machine.clock.now, then))
        self._machine.clock.after(self._delay, self._look)
        self._look()

    def _look(self) -> None:
        clock = self._machine.clock
        while self._free and self._waiting:
            full = len(self._waiting) >= self._most
            if not full and clock.now < self._waiting[0][0] + self._delay - 1e-9:
                return
            batch = [self._waiting.popleft()[1] for _ in range(min(self._most, len(self._waiting)))]
            self._free -= 1
            self.batches.append(len(batch))
            work = self._curve(len(batch)) * self._cores * self._machine.speed(self._cores)
            self._machine.run(
                Work(work, threads=round(self._cores), most=self._cores),
                lambda b=batch: self._done(b),  # type: ignore[misc]
            )

    def _done(self, batch: list[Then]) -> None:
        self._free += 1
        for then in batch:
            then()
        self._look()
