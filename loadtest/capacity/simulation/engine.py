"""The event loop of the simulation: a clock, cores shared by tasks, and thread pools."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count

Callback = Callable[[], None]


class Clock:
    """Simulated seconds and the events ahead."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callback]] = []
        self._numbers = count()

    def at(self, time: float, then: Callback) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), then))

    def after(self, seconds: float, then: Callback) -> None:
        self.at(self.now + seconds, then)

    def run(self) -> None:
        """Process events until none is left."""
        while self._events:
            self.now, _, then = heapq.heappop(self._events)
            then()


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work.

    Attributes:
        core_seconds: Seconds of a core that nobody else uses.
        threads: Threads that each want a core.
        most: Cores they can use at once; fewer than `threads` if they wait for each other.
    """

    core_seconds: float
    threads: int = 1
    most: float = 1.0


@dataclass(slots=True)
class _Task:
    left: float
    work: Work
    then: Callback
    rate: float = 0.0


class Machine:
    """Cores that all threads share evenly, as an operating system shares them.

    Args:
        clock: The simulation's clock.
        cores: Number of cores.
        crowded: Speed of a core while all cores are busy, relative to one busy core. Busy cores
            share caches, memory and power.

    Attributes:
        used: Seconds of busy cores so far.
    """

    def __init__(self, clock: Clock, cores: float, crowded: float = 1.0) -> None:
        self.clock = clock
        self.cores = cores
        self.crowded = crowded
        self.used = 0.0
        self._tasks: list[_Task] = []
        self._settled = 0.0
        self._plan = 0

    def speed(self, busy: float) -> float:
        """Speed of each core while `busy` cores are in use, relative to one busy core."""
        if self.cores <= 1:
            return 1.0
        return 1 - (1 - self.crowded) * max(0.0, busy - 1) / (self.cores - 1)

    def run(self, work: Work, then: Callback) -> None:
        """Start work beside the current tasks, and call `then` at its end."""
        self._settle()
        self._tasks.append(_Task(work.core_seconds, work, then))
        self._share()

    def _settle(self) -> None:
        """Advance all tasks to the present."""
        passed = self.clock.now - self._settled
        self._settled = self.clock.now
        busy = sum(task.rate for task in self._tasks)
        self.used += passed * busy

        progress = passed * self.speed(busy)
        for task in self._tasks:
            task.left -= progress * task.rate

    def _share(self) -> None:
        """Assign cores to tasks and schedule the next end of a task.

        Threads that wait for each other run at the pace of the thread on the most contended core.
        Tasks of one thread share the remaining cores evenly.
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
            self.clock.after(first, partial(self._finish, self._plan))

    def _finish(self, plan: int) -> None:
        if plan != self._plan:
            return  # the tasks have changed since

        self._settle()
        finished = [task for task in self._tasks if task.left <= 1e-9]
        self._tasks = [task for task in self._tasks if task.left > 1e-9]
        self._share()
        for task in finished:
            task.then()


class Pool:
    """Threads of a machine that take work in order of arrival.

    Args:
        machine: Where the threads run.
        threads: Number of threads.
        queue: How many pieces of work may wait; more are refused.

    Attributes:
        busy: Threads at work.
    """

    def __init__(self, machine: Machine, threads: int = 1, queue: float = math.inf) -> None:
        self.threads = threads
        self.busy = 0
        self._machine = machine
        self._queue = queue
        self._waiting: deque[tuple[Callable[[int], Work], Callback]] = deque()

    def submit(self, work: Callable[[int], Work], then: Callback) -> bool:
        """Queue work; return False if the queue is full.

        Args:
            work: Called when the work starts, with the number of busy threads including its own.
            then: Called when the work is finished.
        """
        if self.busy < self.threads:
            self._start(work, then)
        elif len(self._waiting) < self._queue:
            self._waiting.append((work, then))
        else:
            return False
        return True

    def _start(self, work: Callable[[int], Work], then: Callback) -> None:
        self.busy += 1

        def finish() -> None:
            self.busy -= 1
            if self._waiting:
                self._start(*self._waiting.popleft())
            then()

        self._machine.run(work(self.busy), finish)
