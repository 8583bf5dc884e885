"""A temporary folder with a short name of plain letters, for programs that accept no other.

Triton starts its Python stubs through a shell that splits names at spaces. Paths of Unix sockets
are at most 107 bytes long, of which Ray's and HAProxy's need up to 80.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

PREFIX = "samserve-"
LONGEST = 10  # characters of the folder's parent
USUAL = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - mkdtemp makes its folder private
_PLAIN = re.compile(r"[A-Za-z0-9/._-]+")


def make_plain_folder() -> Path:
    """Create a folder with mode 700, in the system's temporary folder if its name is plain.

    Raises:
        OSError: No folder of a plain, short name can be written to.
    """
    parents = [tempfile.gettempdir(), *USUAL]
    for parent in parents:
        if is_plain(parent) and len(parent) <= LONGEST and os.access(parent, os.W_OK | os.X_OK):
            return Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))

    raise OSError(
        f"samserve requires a temporary folder with a name of at most {LONGEST} plain letters; "
        f"none of these can be used: {', '.join(parents)}"
    )


def is_plain(path: str) -> bool:
    """Whether a path has only letters that need no quotes in a shell."""
    return _PLAIN.fullmatch(path) is not None
