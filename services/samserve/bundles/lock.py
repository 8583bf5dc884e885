"""A file lock, so that only one process writes to a folder."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(folder: Path, on_wait: Callable[[str], object] = lambda _: None) -> Iterator[None]:
    """Hold the folder's lock inside a `with` block.

    Args:
        folder: May be shared by several machines.
        on_wait: Receives a message if another process holds the lock.
    """
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait("waiting for another build to finish")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
