"""One writer at a time in a folder that several machines may share."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(folder: Path, say: Callable[[str], object] = lambda _: None) -> Iterator[None]:
    """Hold a folder's lock for the length of a block; who comes second is told that it waits."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another builder")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
