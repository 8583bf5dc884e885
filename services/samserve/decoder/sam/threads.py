"""Shares work over an image's cells out among cores."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from samserve.decoder.sam.kernel import TILE

T = TypeVar("T")
U = TypeVar("U")
_core_here = ctypes.CDLL(None).sched_getcpu


class Workers:
    """Threads that wait for work, and can be told on which cores."""

    def __init__(self, count: int) -> None:
        self._cores = os.sched_getaffinity(0)
        self._ids: list[int] = []
        started = threading.Barrier(count + 1)

        def enter() -> None:
            self._ids.append(threading.get_native_id())
            started.wait()

        self.pool = ThreadPoolExecutor(count, "cells", initializer=enter)
        for _ in range(count):
            self.pool.submit(int)
        started.wait()

    def beside_me(self) -> None:
        """Keep the workers off the caller's core: a thread that is woken is often put on the core of the one that woke
        it, where it would wait until that one is done.
        """
        self._allow(self._cores - {_core_here()} or self._cores)

    def anywhere(self) -> None:
        self._allow(self._cores)

    def _allow(self, cores: set[int]) -> None:
        for thread in self._ids:
            os.sched_setaffinity(thread, cores)


class Cores:
    """The cores one call may use; without workers the caller does it all."""

    def __init__(self, cells: int, threads: int = 1, workers: Workers | None = None) -> None:
        step = -(-cells // (TILE * threads)) * TILE
        self.spans = [(first, min(first + step, cells)) for first in range(0, cells, step)]
        self._workers = workers

    def each(self, work: Callable[[U], T], items: Iterable[U]) -> list[T]:
        """work(item) for every item."""
        if self._workers is None:
            return [work(item) for item in items]
        self._workers.anywhere()
        return list(self._workers.pool.map(work, items))

    def split(self, work: Callable[[int, int], T]) -> list[T]:
        """work(first, last) on every span of cells; the caller takes one of them."""
        if self._workers is None:
            return [work(*span) for span in self.spans]
        self._workers.beside_me()
        others = [self._workers.pool.submit(work, *span) for span in self.spans[1:]]
        own = work(*self.spans[0])
        return [own, *(other.result() for other in others)]


class Threads:
    """The threads that all decoders of a process share, whichever model a call is for."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._workers = Workers(count) if count > 1 else None
        self._busy, self._lock = 0, threading.Lock()

    @contextmanager
    def share(self, cells: int) -> Iterator[Cores]:
        """A call's share of the threads: all of them, unless other calls are at work."""
        with self._lock:
            self._busy += 1
            threads = max(1, self.count // self._busy)
        try:
            yield Cores(cells, threads, self._workers if threads > 1 else None)
        finally:
            with self._lock:
                self._busy -= 1
