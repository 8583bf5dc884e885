"""What tests do to a running stack, what they read from it, and the fixtures they share."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import triton_api
from PIL import Image
from samserve.client import Client
from samserve.local.stack import Stack, StackOptions
from triton_api import Encoded

CAP = 300.0  # seconds after which a wait is given up: far beyond what a busy machine needs

Photos = Callable[..., bytes]
Encodes = Callable[[], Encoded]


@pytest.fixture(scope="package", autouse=True)
def patience() -> Iterator[None]:
    """The services of the folder's stacks time out as late as the tests do."""
    with pytest.MonkeyPatch.context() as patch:
        for setting in ("ENCODE_TIMEOUT_S", "EMBED_TIMEOUT_S"):
            patch.setenv(f"SAMSERVE_{setting}", str(CAP))
        yield


@contextmanager
def started(options: StackOptions, folder: Path) -> Iterator[Stack]:
    stack = Stack(options, folder)
    stack.start()
    yield stack
    programs = dict(stack.programs)
    stack.stop()
    for name in ("embedding", "decoder"):
        assert programs[name].returncode == 0, f"{name} ended with an error on SIGTERM"


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with Client(stack.addresses.decoder, stack.addresses.embedding, timeout=CAP) as client:
        yield client


@pytest.fixture
def encoded(stack: Stack) -> Encodes:
    """Triton's own count of what it has encoded."""
    return lambda: triton_api.encoded(stack, "nano")


@pytest.fixture
def new_photo() -> Photos:
    """Makes images that no test has sent before."""
    rng = np.random.default_rng()

    def make(width: int = 320, height: int = 200) -> bytes:
        pixels = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).resize((width, height)).save(out, "PNG")
        return out.getvalue()

    return make


def until(holds: Callable[[], object]) -> None:
    """Wait for an event. The cap only stops a test that would wait forever."""
    give_up = time.monotonic() + CAP
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def metrics_of(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=CAP) as answer:
        return str(answer.read().decode())


def metric(address: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels, at one address; 0 if there is none."""
    total = 0.0
    for given, value in re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", metrics_of(address), re.M):
        if all(f'{label}="{wanted}"' in given for label, wanted in labels.items()):
            total += float(value)
    return total


@contextmanager
def stopped(stack: Stack, name: str) -> Iterator[None]:
    """A program of the stack stands still for the length of the block."""
    pid = stack.programs[name].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def replicas(stack: Stack) -> list[int]:
    """Process ids of this stack's Ray Serve replicas, and of no other's."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    parents = {int(pid): int(parent) for pid, parent, _ in rows}

    def belongs(pid: int) -> bool:
        while pid := parents.get(pid, 0):
            if pid == stack.programs["embedding"].pid:
                return True
        return False

    found = [
        int(pid)
        for pid, _, name in rows
        if name.startswith("ray::ServeReplica") and belongs(int(pid))
    ]
    assert found
    return found
