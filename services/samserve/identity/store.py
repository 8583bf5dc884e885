"""Where keys and tenants are kept: a file or a Redis. Both are read whole."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from samserve.identity.snapshot import InvalidKeyStore, Snapshot

Change = Callable[[Snapshot], Snapshot]


class KeyStore(Protocol):
    """Keeps all keys and tenants."""

    def version(self) -> str:
        """Return what changes with every change. Raises InvalidKeyStore."""
        ...

    def load(self) -> Snapshot:
        """Return everything. Raises InvalidKeyStore."""
        ...

    def change(self, change: Change) -> None:
        """Replace everything by what `change` returns for it. Raises InvalidKeyStore."""
        ...


class FileStore:
    """A file of JSON, replaced at each change. Its owner alone may read it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def version(self) -> str:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return "none"
        except OSError as problem:
            raise InvalidKeyStore(f"{self._path}: {problem.strerror}") from None
        return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"

    def load(self) -> Snapshot:
        try:
            return Snapshot.from_json(json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return Snapshot()
        except OSError as problem:
            raise InvalidKeyStore(f"{self._path}: {problem.strerror}") from None
        except ValueError:
            raise InvalidKeyStore(f"{self._path}: no JSON") from None

    def change(self, change: Change) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(f"{self._path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._write(change(self.load()))
        except OSError as problem:
            raise InvalidKeyStore(f"{self._path}: {problem.strerror}") from None
        finally:
            os.close(lock)

    def _write(self, snapshot: Snapshot) -> None:
        handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
        try:
            with os.fdopen(handle, "w") as part:  # mode 600
                json.dump(snapshot.to_json(), part, indent=1)
                part.flush()
                os.fsync(part.fileno())
            Path(name).replace(self._path)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise
