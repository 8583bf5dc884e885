"""Work that several callers in this process want at once is done once. Pure asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(slots=True)
class Flight:
    """One piece of work, and the callers that wait for it.

    Attributes:
        waiting: How many callers wait.
        deadline: The latest of their deadlines, by the event loop's clock in seconds.
        begun: The work can no longer be cancelled.
    """

    waiting: int = 0
    deadline: float = 0.0
    begun: bool = False

    def begin(self) -> float:
        """Mark the work as no longer cancellable. Return the seconds until the latest deadline."""
        self.begun = True
        return self.deadline - asyncio.get_running_loop().time()


Work = Callable[[Flight], Awaitable[T]]


@dataclass(frozen=True, slots=True)
class Shared(Generic[T]):
    """The result of a flight, and whether this caller joined one that had already started."""

    result: T
    joined: bool


class SingleFlight(Generic[K, T]):
    """Callers of the same key share one task. For one event loop."""

    def __init__(self) -> None:
        self._flights: dict[K, tuple[Flight, asyncio.Task[T]]] = {}

    def __contains__(self, key: K) -> bool:
        """Whether work for this key is in flight."""
        return key in self._flights

    async def run(self, key: K, work: Work[T], deadline: float) -> Shared[T]:
        """Do the work, or wait for the same work that is in flight already.

        The work is cancelled when no caller waits for it any more, unless it has called `begin`.
        A caller that leaves never stops it for the others. A failure is raised to every caller.

        Args:
            key: Names the result.
            work: Called in a task of its own, with its flight.
            deadline: When this caller stops waiting, by the event loop's clock in seconds.
        """
        joined = key in self._flights
        if not joined:
            self._start(key, work)

        flight, task = self._flights[key]
        return Shared(await self._wait(key, flight, task, deadline), joined)

    def _start(self, key: K, work: Work[T]) -> None:
        async def fly() -> T:
            return await work(flight)

        flight = Flight()
        task = asyncio.create_task(fly())
        self._flights[key] = flight, task
        task.add_done_callback(lambda _: self._forget(key, task))

    async def _wait(self, key: K, flight: Flight, task: asyncio.Task[T], deadline: float) -> T:
        flight.waiting += 1
        flight.deadline = max(flight.deadline, deadline)
        try:
            return await asyncio.shield(task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.begun:
                self._forget(key, task)  # a later caller must not share a task that is ending
                task.cancel()

    def _forget(self, key: K, task: asyncio.Task[T]) -> None:
        if key in self._flights and self._flights[key][1] is task:
            del self._flights[key]
