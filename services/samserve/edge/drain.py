"""Drains a running edge, before its pod stops: `python -m samserve.edge.drain SECONDS`.

Envoy ends at once at SIGTERM. So a preStop hook has it fail its readiness, close connections as
they become idle, and waits until no call is in progress, at most for so many seconds.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import time
from pathlib import Path

POLL_SECONDS = 0.5
FEWEST_SECONDS = 5.0  # for load balancers to notice
ACTIVE = "http.edge.downstream_rq_active"


class AdminConnection(http.client.HTTPConnection):
    """A connection to the admin socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("admin", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def ask(path: Path, method: str, target: str) -> str:
    """Return the answer of the admin interface."""
    connection = AdminConnection(path)
    try:
        connection.request(method, target)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def calls_in_progress(path: Path) -> int:
    """Return the number of calls of all callers."""
    stats = json.loads(ask(path, "GET", f"/stats?format=json&filter=^{ACTIVE}$"))["stats"]
    return sum(int(each.get("value", 0)) for each in stats)


def drain(path: Path, seconds: float, fewest: float = FEWEST_SECONDS) -> bool:
    """Drain the edge of an admin socket. Returns whether all calls have ended."""
    started = time.monotonic()
    ask(path, "POST", "/healthcheck/fail")
    ask(path, "POST", "/drain_listeners?graceful&skip_exit")
    while (waited := time.monotonic() - started) < seconds:
        if waited >= fewest and calls_in_progress(path) == 0:
            return True
        time.sleep(POLL_SECONDS)
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("seconds", type=float)
    drain(Path(os.environ["SAMSERVE_EDGE_RUN_FOLDER"]) / "admin", parser.parse_args().seconds)


if __name__ == "__main__":
    main()
