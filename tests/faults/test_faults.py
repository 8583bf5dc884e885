"""A part of the stack breaks under load: nobody gets a wrong mask, nobody loses a request, and it mends by itself.

Each fault lasts a third of the load; FAULT_SECONDS in the environment makes it longer (`make faults`: 60).
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import triton_api
from faults.load import ALLOWED, Sample, mixed_load
from redis import Redis
from samserve.local.stack import Stack

SECONDS = float(os.environ.get("FAULT_SECONDS", "12"))
Fault = Callable[[Stack], "contextmanager[None]"]


@contextmanager
def redis_killed(stack: Stack) -> Iterator[None]:
    stack.programs["redis"].kill()
    yield
    stack.start_redis()


@contextmanager
def redis_restarted_empty(stack: Stack) -> Iterator[None]:
    stack.programs["redis"].kill()
    stack.start_redis()
    yield


@contextmanager
def redis_stopped(stack: Stack) -> Iterator[None]:
    os.kill(stack.programs["redis"].pid, signal.SIGSTOP)
    yield
    os.kill(stack.programs["redis"].pid, signal.SIGCONT)


@contextmanager
def redis_full(stack: Stack) -> Iterator[None]:
    with Redis.from_url(stack.addresses.redis) as redis:
        before = redis.config_get("maxmemory*")
        redis.config_set("maxmemory-policy", "noeviction")
        redis.config_set("maxmemory", "1mb")
        yield
        for name, value in before.items():
            redis.config_set(name, value)


@contextmanager
def triton_killed(stack: Stack) -> Iterator[None]:
    stack.programs["triton"].kill()
    yield
    stack.start_triton()


@contextmanager
def model_unloaded(stack: Stack) -> Iterator[None]:
    triton_api.unload(stack, "nano")
    yield
    triton_api.load(stack, "nano")


@contextmanager
def replica_killed(stack: Stack) -> Iterator[None]:
    os.kill(replicas(stack)[0], signal.SIGKILL)
    yield


def replicas(stack: Stack) -> list[int]:
    """Process ids of the stack's own Ray Serve replicas."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    parents = {int(pid): int(parent) for pid, parent, _ in rows}

    def is_ours(pid: int) -> bool:
        while pid := parents.get(pid, 0):
            if pid == stack.programs["embedding"].pid:
                return True
        return False

    return [
        int(pid)
        for pid, _, name in rows
        if name.startswith("ray::ServeReplica") and is_ours(int(pid))
    ]


@pytest.mark.parametrize(
    "fault",
    [
        redis_killed,
        redis_restarted_empty,
        redis_stopped,
        redis_full,
        triton_killed,
        model_unloaded,
        replica_killed,
    ],
)
def test_a_broken_part_makes_no_wrong_mask_loses_no_request_and_mends(
    fault: Fault, stack: Stack, samples: list[Sample]
) -> None:
    with mixed_load(stack, samples) as log:
        time.sleep(SECONDS / 4)
        before = log.now
        with fault(stack):
            time.sleep(SECONDS / 3)
        healed = log.now
        time.sleep(SECONDS / 3 + 3)
        mended = log.now
        time.sleep(SECONDS / 12 + 2)
    print(
        f"{fault.__name__}: {len(log.answered)} answers, longest {log.longest:.1f} s, probes {dict(log.codes)}"
    )
    assert log.after(0).total() > log.after(before).total() > 0
    assert not log.wrong
    assert not log.lost
    assert set(log.codes) <= ALLOWED
    assert not [text for text in log.without_retry_info if "Triton" in text or "queue" in text]
    assert log.after(mended)["HIT"] > 0, log.after(healed)
    assert log.after(mended)["MISS"] > 0, log.after(healed)
