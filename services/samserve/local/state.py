"""The state file: where `samserve up` leaves the addresses of its stack for the other commands."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from samserve.local.process import start_time


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses of a running stack; empty for a part that the stack did not start itself.

    Attributes:
        gateway: A URL, `http://127.0.0.1:PORT`.
        edge: A URL, likewise, or with `https`.
        edge_ca: File with the CA of the edge's certificate; empty: no TLS.
        identity: The authoriser; empty: callers need no keys.
        redis: A URL, `redis://127.0.0.1:PORT/0`, or the user's. The others are `127.0.0.1:PORT`.
        logs: The folder that holds the log of every part.
        models: `NAME` or `NAME:VARIANT`; the first is the default.
        pid: Process id of the `samserve up` that runs the stack.
        started: When that process started, in clock ticks since boot: pids are used again.
        restarts: How often each part was started again.
    """

    gateway: str
    gateway_metrics: str
    embedding: str
    embedding_metrics: str
    decoder: str
    decoder_metrics: str
    redis: str
    triton: str
    triton_metrics: str
    logs: str
    models: tuple[str, ...]
    pid: int
    started: int | None
    edge: str = ""
    edge_metrics: str = ""
    edge_ca: str = ""
    identity: str = ""
    identity_metrics: str = ""
    restarts: dict[str, int] = field(default_factory=dict)

    def shown(self) -> dict[str, str]:
        """The addresses that are set, by part, without passwords."""
        fields = {name: value for name, value in asdict(self).items() if isinstance(value, str)}
        fields["redis"] = without_password(self.redis)
        return {name: value for name, value in fields.items() if value}


def without_password(url: str) -> str:
    """The URL with `***` in place of its password."""
    password = urlsplit(url).password
    return url.replace(f":{password}@", ":***@", 1) if password else url


def state_folder() -> Path:
    """The folder's path: below XDG_STATE_HOME, by default ~/.local/state."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "samserve"


def state_file() -> Path:
    """The file's path."""
    return state_folder() / "stack.json"


def save_state(addresses: Addresses) -> None:
    """Write the state file at once, readable by its owner only: a URL may have a password."""
    file = state_file()
    file.parent.mkdir(parents=True, exist_ok=True)

    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as part:  # mode 600
        part.write(json.dumps(asdict(addresses), indent=1))
    Path(part.name).replace(file)


def load_state() -> Addresses | None:
    """The addresses of the running stack; None if no stack runs or the file is unreadable.

    A file that was left behind names a process that is gone, or another one by now.
    """
    try:
        state = json.loads(state_file().read_text())
        addresses = Addresses(**{**state, "models": tuple(state["models"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None

    if addresses.started is None or start_time(addresses.pid) != addresses.started:
        return None

    return addresses


def delete_state() -> None:
    """Remove the state file if there is one."""
    state_file().unlink(missing_ok=True)
