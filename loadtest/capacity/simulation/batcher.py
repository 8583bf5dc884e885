"""Triton's dynamic batching: a request waits a moment for others and runs with them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from functools import partial

import numpy as np

from loadtest.capacity.simulation.engine import Callback, Machine, Work


class Curve:
    """Seconds of a batch by its size: linear between measured sizes, proportional beyond them."""

    def __init__(self, seconds: Mapping[int, float]) -> None:
        self._sizes = sorted(seconds)
        self._seconds = [seconds[size] for size in self._sizes]

    def __call__(self, batch: int) -> float:
        largest = self._sizes[-1]
        if batch > largest:
            return self._seconds[-1] * batch / largest
        return float(np.interp(batch, self._sizes, self._seconds))


class Batcher:
    """Instances of a model that take batches.

    Args:
        machine: Where the instances run.
        curve: Seconds of a batch by an instance that has the machine to itself.
        most: Maximum batch size.
        delay: Seconds that the oldest request waits for others before a free instance starts.
        instances: Number of instances.
        cores: Cores that one instance keeps busy.

    Attributes:
        batches: Size of each batch so far.
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
        self._machine = machine
        self._curve = curve
        self._most = most
        self._delay = delay
        self._free = instances
        self._cores = cores
        self._waiting: deque[tuple[float, Callback]] = deque()
        self.batches: list[int] = []

    def submit(self, then: Callback) -> None:
        self._waiting.append((self._machine.clock.now, then))
        self._machine.clock.after(self._delay, self._start_batches)
        self._start_batches()

    def _start_batches(self) -> None:
        clock = self._machine.clock
        while self._free and self._waiting:
            full = len(self._waiting) >= self._most
            if not full and clock.now < self._waiting[0][0] + self._delay - 1e-9:
                return

            batch = [self._waiting.popleft()[1] for _ in range(min(self._most, len(self._waiting)))]
            self._free -= 1
            self.batches.append(len(batch))

            # The curve includes the slowdown of an instance alone; the machine applies it again.
            work = self._curve(len(batch)) * self._cores * self._machine.speed(self._cores)
            self._machine.run(
                Work(work, threads=round(self._cores), most=self._cores),
                partial(self._finish, batch),
            )

    def _finish(self, batch: list[Callback]) -> None:
        self._free += 1
        for then in batch:
            then()
        self._start_batches()
