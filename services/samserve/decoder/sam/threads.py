"""Divides the work on an image's cells among threads."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from samserve.decoder.sam.kernel import TILE

PAUSED_SPANS = 8  # of a pass that others may hold up; each takes a millisecond or two

Result = TypeVar("Result")
Item = TypeVar("Item")

_current_core = ctypes.CDLL(None).sched_getcpu


class WorkerPool:
    """Threads that wait for work and can be moved to other cores."""

    def __init__(self, count: int) -> None:
        self._cores = os.sched_getaffinity(0)
        self._thread_ids: list[int] = []
        all_started = threading.Barrier(count + 1)

        def enter() -> None:
            self._thread_ids.append(threading.get_native_id())
            all_started.wait()

        self.executor = ThreadPoolExecutor(count, "cells", initializer=enter)
        for _ in range(count):
            self.executor.submit(int)  # the executor starts a thread for each
        all_started.wait()

    def avoid_callers_core(self) -> None:
        """Keep the workers off the calling thread's core.

        The system often wakes a thread on the core of the thread that woke it, where it would wait
        for that thread to finish.
        """
        self._allow(self._cores - {_current_core()} or self._cores)

    def use_all_cores(self) -> None:
        """Let the workers run on every core of the process."""
        self._allow(self._cores)

    def _allow(self, cores: set[int]) -> None:
        for thread_id in self._thread_ids:
            os.sched_setaffinity(thread_id, cores)


class ThreadShare:
    """The threads that one call may use. Without workers the calling thread does all the work.

    Attributes:
        spans: (first, last) cells of each thread, last exclusive, in whole tiles.
    """

    def __init__(self, cells: int, threads: int = 1, workers: WorkerPool | None = None) -> None:
        step = -(-cells // (TILE * threads)) * TILE
        self.spans = [(first, min(first + step, cells)) for first in range(0, cells, step)]
        self._workers = workers

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Return work(item) for every item, in order."""
        if self._workers is None:
            return [work(item) for item in items]

        self._workers.use_all_cores()
        return list(self._workers.executor.map(work, items))

    def map_spans(self, work: Callable[[int, int], Result]) -> list[Result]:
        """Return work(first, last) for every span of cells; the calling thread does the first."""
        if self._workers is None:
            return [work(*span) for span in self.spans]

        self._workers.avoid_callers_core()
        futures = [self._workers.executor.submit(work, *span) for span in self.spans[1:]]
        own_result = work(*self.spans[0])
        return [own_result, *(future.result() for future in futures)]


class PausingShare(ThreadShare):
    """The calling thread alone, which pauses between short spans of cells."""

    def __init__(self, cells: int, pause: Callable[[], None]) -> None:
        super().__init__(cells, PAUSED_SPANS)
        self._pause = pause

    def map_spans(self, work: Callable[[int, int], Result]) -> list[Result]:
        """Return work(first, last) for every span of cells, one after the other."""
        results = []
        for first, last in self.spans:
            self._pause()
            results.append(work(first, last))
        return results


class Threads:
    """The threads that all decoders of a process share, whichever model a call is for."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._workers = WorkerPool(count) if count > 1 else None
        self._active_calls = 0
        self._lock = threading.Lock()

    @contextmanager
    def share(self, cells: int) -> Iterator[ThreadShare]:
        """Yield a call's share: all threads, divided by the number of calls in progress.

        Args:
            cells: Of the embedding that the call works on.
        """
        with self._lock:
            self._active_calls += 1
            threads = max(1, self.count // self._active_calls)

        try:
            yield ThreadShare(cells, threads, self._workers if threads > 1 else None)
        finally:
            with self._lock:
                self._active_calls -= 1
