"""Time, processors that tasks share, and pools of threads with a queue before them."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

Then = Callable[[], None]


class Clock:
    """Simulated seconds, and what is to happen when."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Then]] = []
        self._numbers = count()

    def at(self, time: float, then: Then) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), then))

    def after(self, seconds: float, then: Then) -> None:
        self.at(self.now + seconds, then)

    def run(self) -> None:
        """Until nothing is left to happen."""
        while self._events:
            self.now, _, then = heapq.heappop(self._events)
            then()


@dataclass(frozen=True, slots=True)
class Work:
    """core_seconds: of a core that nobody else uses; threads: how many want a core; most: cores they can use at once,
    less than `threads` when they wait for each other.
    """

    core_seconds: float
    threads: int = 1
    most: float = 1.0


@dataclass(slots=True)
class _Task:
    left: float
    work: Work
    then: Then
    rate: float = 0.0


class Machine:
    """Cores that all threads share evenly, as an operating system sees to it.

    crowded: how fast a core is while all are busy, of 1, because they share caches, memory and power.
    """

    def __init__(self, clock: Clock, cores: float, crowded: float = 1.0) -> None:
        self.clock, self.cores, self.crowded = clock, cores, crowded
        self.used = 0.0  # core-seconds of busy cores so far
        self._tasks: list[_Task] = []
        self._settled, self._plan = 0.0, 0

    def speed(self, busy: float) -> float:
        """Of each core, of 1, while so many are busy."""
        if self.cores <= 1:
            return 1.0
        return 1 - (1 - self.crowded) * max(0.0, busy - 1) / (self.cores - 1)

    def run(self, work: Work, then: Then) -> None:
        """Do the work beside whatever else is being done."""
        self._settle()
        self._tasks.append(_Task(work.core_seconds, work, then))
        self._share()

    def _settle(self) -> None:
        passed, self._settled = self.clock.now - self._settled, self.clock.now
        busy = sum(task.rate for task in self._tasks)
        self.used += passed * busy
        progress = passed * self.speed(busy)
        for task in self._tasks:
            task.left -= progress * task.rate

    def _share(self) -> None:
        """Give each task its cores. Threads that wait for each other go at the pace of the one whose core most others
        want; what that leaves is shared evenly by the tasks of one thread.
        """
        gangs = [task for task in self._tasks if task.work.threads > 1]
        singles = [task for task in self._tasks if task.work.threads == 1]
        if gangs:
            pace = 1 / math.ceil((self.cores + len(singles)) / self.cores)
            room = self.cores - pace * min(len(singles), self.cores)
            room = min(1.0, room / (pace * sum(task.work.most for task in gangs)))
            for task in gangs:
                task.rate = room * pace * task.work.most
        free = self.cores - sum(task.rate for task in gangs)
        for task in singles:
            task.rate = min(1.0, free / len(singles))
        self._plan += 1
        if self._tasks:
            speed = self.speed(sum(task.rate for task in self._tasks))
            first = min(max(task.left, 0.0) / task.rate for task in self._tasks) / speed
            self.clock.after(first, lambda plan=self._plan: self._finish(plan))  # type: ignore[misc]

    def _finish(self, plan: int) -> None:
        if plan != self._plan:
            return  # the tasks have changed since
        self._settle()
        done = [task for task in self._tasks if task.left <= 1e-9]
        self._tasks = [task for task in self._tasks if task.left > 1e-9]
        self._share()
        for task in done:
            task.then()


class Pool:
    """Threads of a machine that take work in the order it comes. queue: how much may wait; more is refused."""

    def __init__(self, machine: Machine, threads: int = 1, queue: float = math.inf) -> None:
        self._machine, self.threads, self._queue = machine, threads, queue
        self._waiting: deque[tuple[Callable[[int], Work], Then]] = deque()
        self.busy = 0

    def submit(self, work: Callable[[int], Work], then: Then) -> bool:
        """Whether it was taken. `work` is asked when it begins, and told how many are at work then, it among them."""
        if self.busy < self.threads:
            self._begin(work, then)
        elif len(self._waiting) < self._queue:
            self._waiting.append((work, then))
        else:
            return False
        return True

    def _begin(self, work: Callable[[int], Work], then: Then) -> None:
        self.busy += 1

        def done() -> None:
            self.busy -= 1
            if self._waiting:
                self._begin(*self._waiting.popleft())
            then()

        self._machine.run(work(self.busy), done)
