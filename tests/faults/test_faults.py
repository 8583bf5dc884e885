"""A part of the stack breaks under load: no mask is wrong, no request lost, and it recovers.

FAULT_SECONDS in the environment: how long the load lasts at least, and each fault a third of it
(`make faults`: 60).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import triton_api
from faults.load import ALLOWED, Sample, mixed_load
from redis import Redis
from samserve.client import Client
from samserve.local.stack import Stack
from stacks import replicas, until

SECONDS = float(os.environ.get("FAULT_SECONDS", "0"))
SHORTEST = 4.0  # seconds of a fault: longer than timeouts, and than an open circuit rests
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
    fault: Fault, stack: Stack, client: Client, samples: list[Sample]
) -> None:
    with mixed_load(stack, samples) as log:
        log.await_answers()
        with fault(stack):
            time.sleep(max(SHORTEST, SECONDS / 3))
        log.await_answers()
        photo = samples[0].unseen()
        client.embed(photo)
        until(lambda: client.embed(photo).cache.name == "HIT")  # the cache is used again
        time.sleep(max(0.0, SECONDS - log.now))
    print(
        f"{fault.__name__}: {len(log.answered)} answers, longest {log.longest:.1f} s, "
        f"probes {dict(log.codes)}"
    )
    assert not log.wrong
    assert not log.lost
    assert set(log.codes) <= ALLOWED
    assert not [text for text in log.without_retry_info if "Triton" in text or "queue" in text]
