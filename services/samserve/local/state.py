"""The state file: where `samserve up` leaves the addresses of its stack for the other commands."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses of a running stack; empty for a part that the stack did not start itself.

    Attributes:
        redis: A URL, `redis://127.0.0.1:PORT/0`. The others are `127.0.0.1:PORT`.
        logs: The folder that holds the log of every part.
        models: `NAME` or `NAME:VARIANT`; the first is the default.
        pid: Process id of the `samserve up` that runs the stack.
    """

    embedding: str
    embedding_metrics: str
    decoder: str
    decoder_metrics: str
    redis: str
    triton: str
    triton_http: str
    triton_metrics: str
    logs: str
    models: tuple[str, ...]
    pid: int

    def shown(self) -> dict[str, str]:
        """The addresses that are set, by part."""
        fields = asdict(self)
        return {
            name: fields[name] for name in fields if name not in ("pid", "models") and fields[name]
        }


def state_file() -> Path:
    """The file's path: below XDG_STATE_HOME, by default ~/.local/state."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "samserve" / "stack.json"


def save_state(addresses: Addresses) -> None:
    """Write the state file."""
    file = state_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(addresses), indent=1))


def load_state() -> Addresses | None:
    """The addresses of the running stack; None if no stack runs or the file is unreadable."""
    try:
        state = json.loads(state_file().read_text())
        addresses = Addresses(**{**state, "models": tuple(state["models"])})
        os.kill(addresses.pid, 0)
    except (OSError, ValueError, TypeError, KeyError):
        return None

    return addresses


def delete_state() -> None:
    """Remove the state file if there is one."""
    state_file().unlink(missing_ok=True)
