"""Each process of a supervised stack is killed under load; the stack serves again by itself.

With FAULT_SECONDS (`make faults`) also the processes whose death costs the whole Ray cluster.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from faults.load import Sample, mixed_load
from samserve.client import Client
from samserve.local.process import session_members
from samserve.local.stack import Stack
from stacks import until

SLOW = pytest.mark.skipif("FAULT_SECONDS" not in os.environ, reason="set FAULT_SECONDS to run it")


def pids_of(stack: Stack, part: str, words: str) -> list[int]:
    """Processes of a part whose command line has these words."""
    found = []
    for pid in session_members(stack.programs[part].pid):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if words in command:
            found.append(pid)
    return found


def haproxy(stack: Stack) -> list[int]:
    return pids_of(stack, "embedding", "haproxy -db")


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("redis", "valkey-server"),
        ("triton", "tritonserver --"),
        ("triton", "triton_python_backend_stub"),
        ("decoder", "samserve.decoder.server"),
        ("embedding", "haproxy -db"),
        ("embedding", "ray::HAProxyManager"),
        ("embedding", "ray::ServeReplica"),
        ("embedding", "ray::ServeController"),
        ("embedding", "ray::ProxyActor"),
        ("embedding", "gcs_server"),
        pytest.param("embedding", "raylet/raylet", marks=SLOW),
        pytest.param("embedding", "samserve.embedding.main", marks=SLOW),
    ],
)
def test_a_killed_process_is_replaced(
    part: str, words: str, stack: Stack, client: Client, samples: list[Sample]
) -> None:
    before = {name: program.pid for name, program in stack.programs.items()}
    changes: list[str] = []

    def answered() -> bool:
        stack.restart_dead_parts(changes.append)
        since = [each.cache for each in log.answered if each.begun > killed]
        return min(since.count("HIT"), since.count("MISS")) >= 3

    with mixed_load(stack, samples) as log:
        quiet = log.now
        log.await_answers()
        usual = [log.first(cache, quiet) for cache in ("HIT", "MISS")]
        victims = pids_of(stack, part, words)
        assert victims
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        killed = log.now
        until(answered)
        hit, miss = (log.first(cache, killed) for cache in ("HIT", "MISS"))
        print(
            f"{words}: after its death a click took {hit:.1f} s (before {usual[0]:.1f}), a click "
            f"on a new image {miss:.1f} s (before {usual[1]:.1f}); {len(log.lost)} lost"
        )

    assert not log.wrong
    assert not set(victims) & set(pids_of(stack, part, words))
    others = {name for name, program in stack.programs.items() if program.pid == before[name]}
    assert others >= set(before) - {part}, changes


def test_haproxy_is_replaced_by_its_manager_without_a_new_one(
    stack: Stack, samples: list[Sample]
) -> None:
    """Ray would notice after several failed health checks, and start another manager."""
    (manager,) = pids_of(stack, "embedding", "ray::HAProxyManager")
    victims = haproxy(stack)
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    until(lambda: set(haproxy(stack)) - set(victims))
    with mixed_load(stack, samples) as log:
        log.await_answers()
    assert pids_of(stack, "embedding", "ray::HAProxyManager") == [manager]
