"""A child process with its log in a file. Its whole process group ends with it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

TAIL = 15  # lines of the log that an error quotes


class StartFailed(RuntimeError):
    """A part of the stack did not start; the message names the part, the reason and the log."""


class Program:
    """A running child process in a session of its own."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.log = log

        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait_ready(self, ready: Callable[[], bool], seconds: float) -> None:
        """Poll `ready` until it returns True.

        Raises:
            StartFailed: The program ended first, or was not ready within `seconds`.
        """
        deadline = time.monotonic() + seconds

        while not ready():
            if not self.alive:
                raise StartFailed(
                    f"{self.name} ended with code {self._process.returncode}; {self.log_tail()}"
                )

            if time.monotonic() > deadline:
                raise StartFailed(
                    f"{self.name} was not ready within {seconds:g} s; {self.log_tail()}"
                )

            time.sleep(0.05)

    def log_tail(self) -> str:
        """The path of the log and its last lines."""
        lines = self.log.read_text(errors="replace").splitlines()[-TAIL:]

        return "\n  ".join([f"end of its log {self.log}:", *lines])

    def stop(self, seconds: float = 15) -> None:
        """Send SIGTERM; kill the process group after `seconds`."""
        if self.alive:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)

        self.kill()

    def kill(self) -> None:
        """Send SIGKILL to the whole process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

        self._process.wait()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is unused now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_range(length: int) -> range:
    """Consecutive unused TCP ports, below the range from which systems assign ports."""
    dice = random.SystemRandom()

    while True:
        first = dice.randrange(20_000, 32_000 - length)
        if all(is_free(port) for port in range(first, first + length)):
            return range(first, first + length)


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False

        return True


def accepts_connections(port: int) -> bool:
    """Whether a server accepts connections on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
