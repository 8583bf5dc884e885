"""The keys of a stack on this machine, and the pepper that they are hashed with."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from samserve.local.state import state_folder


@dataclass(frozen=True, slots=True)
class LocalKeys:
    """Where the keys of this machine are.

    Attributes:
        file: The keys and tenants.
        pepper: That keys are hashed with.
    """

    file: Path
    pepper: str = field(repr=False)


def local_keys() -> LocalKeys:
    """Return the keys of this machine; the pepper is made at first use, for its owner alone."""
    folder = state_folder()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "keys.pepper"
    with suppress(FileExistsError):
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as stream:
            stream.write(secrets.token_hex(32))
    return LocalKeys(folder / "keys.json", file.read_text())
