"""A child process with its log in a file. Everything that it started ends with it."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

STOP_SECONDS = 60.0  # for an orderly end; a busy machine needs a while
TAIL = 15  # lines of the log that an error quotes
LARGEST_LOG = 32 * 2**20  # bytes; a larger log is moved to NAME.log.1

# Becomes the program that its arguments name, and has it sent SIGTERM when the parent, whose id it
# gets, ends: 1 is prctl's PR_SET_PDEATHSIG. A preexec_fn would run in a fork of this process, where
# gRPC's threads are missing: such a child has aborted.
_END_WITH_PARENT = f"""\
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, {int(signal.SIGTERM)})
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])"""


class StartFailed(RuntimeError):
    """A part of the stack did not start; the message names the part, the reason and the log."""


class Program:
    """A running child process, the leader of a new session.

    It gets SIGTERM when the thread that started it ends, so that it does not outlive a parent that
    was killed.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.log = log

        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [*_launcher(), *command],
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

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

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

    def rotate_log(self) -> None:
        """Move a log that has become too large to NAME.log.1. The program appends to the rest."""
        if self.log.stat().st_size > LARGEST_LOG:
            shutil.copyfile(self.log, self.log.with_name(f"{self.log.name}.1"))
            os.truncate(self.log, 0)

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Send SIGTERM; after `seconds`, or when it has ended, kill what is left of its session."""
        if self.alive:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)

        self.kill()

    def kill(self) -> None:
        """Send SIGKILL to its whole session: to it, its children and its children's orphans."""
        while pids := session_members(self.pid):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

            self._process.poll()  # a child that has ended is a member until it is waited for
            time.sleep(0.01)

        self._process.wait()


def _launcher() -> list[str]:
    return [sys.executable, "-I", "-S", "-c", _END_WITH_PARENT, str(os.getpid())]


def session_members(session: int) -> list[int]:
    """Process ids of a session's members that run. Zombies are left out."""
    members = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue

        with contextlib.suppress(OSError):  # it has ended
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            state, number = fields[0], int(fields[3])
            if number == session and state != "Z":
                members.append(int(folder.name))

    return members


def dead_children(pid: int) -> list[int]:
    """Process ids of a process's children that have ended and that it has not waited for."""
    dead = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the process or its thread has ended
            dead += [int(child) for child in listing.read_text().split() if _is_zombie(child)]

    return dead


def _is_zombie(pid: str) -> bool:
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        return stat.rpartition(")")[2].split()[0] == "Z"
    return False


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it does not run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None

    return int(stat.rpartition(")")[2].split()[19])


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
