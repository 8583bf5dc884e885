"""Child processes and what they leave."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from samserve.local import process
from samserve.local.process import Program, session_members, start_time
from samserve.local.stack import Stack, StackOptions

CAP = 60.0  # seconds after which a wait is given up
ORPHAN = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import os, time; os.setpgid(0, 0); time.sleep(600)"])
print("started", flush=True)
time.sleep(600)
"""


def until(holds: Callable[[], object]) -> None:
    give_up = time.monotonic() + CAP
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def run(code: str, log: Path) -> Program:
    program = Program("program", [sys.executable, "-c", code], os.environ, log)
    until(lambda: "started" in log.read_text())
    return program


def test_orphans_in_groups_of_their_own_end_with_the_program(tmp_path: Path) -> None:
    program = run(ORPHAN, tmp_path / "log")
    until(lambda: len(session_members(program.pid)) == 2)
    os.kill(program.pid, 9)
    until(lambda: not program.alive)
    assert len(session_members(program.pid)) == 1
    program.kill()
    assert session_members(program.pid) == []


def test_a_program_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent_code = (
        "import os, sys, time; from pathlib import Path; "
        "from samserve.local.process import Program; "
        "p = Program('p', [sys.executable, '-c', 'import time; time.sleep(600)'], os.environ, "
        f"Path({str(tmp_path / 'log')!r})); print(p.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent_code], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert start_time(pid) is not None
        parent.kill()
    until(lambda: session_members(pid) == [])


def test_a_large_log_is_moved_and_the_program_goes_on_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LARGEST_LOG", 100)
    log = tmp_path / "log"
    code = "import sys\nfor line in sys.stdin.buffer: pass\nprint('started' * 100, flush=True)"
    program = run(
        f"{code}\nimport time\nwhile True: print('more', flush=True); time.sleep(.01)", log
    )
    program.rotate_log()
    assert "started" in (tmp_path / "log.1").read_text()
    until(lambda: "more" in log.read_text())
    assert "started" not in log.read_text()
    assert "\0" not in log.read_text()
    program.kill()


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """A stack of two programs that do nothing, started without the real parts."""
    stack = Stack(StackOptions(), tmp_path)
    for name in ("one", "two"):
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        log = tmp_path / f"{name}.log"
        stack._start(
            name, lambda n=name, c=command, to=log: Program(n, c, os.environ, to), lambda: True
        )
    return stack


def test_a_part_that_dies_is_started_again_and_the_others_are_left_alone(stack: Stack) -> None:
    one, two = stack.programs["one"].pid, stack.programs["two"].pid
    os.kill(one, 9)
    until(lambda: not stack.programs["one"].alive)
    told: list[str] = []
    stack.restart_dead_parts(told.append)
    assert stack.programs["one"].alive
    assert stack.programs["one"].pid != one
    assert stack.programs["two"].pid == two
    assert stack._restarts() == {"one": 1, "two": 0}
    assert [line.split()[1] for line in told] == ["ended", "was"]
    stack.stop()


def test_a_part_that_dies_again_at_once_waits_longer_each_time(stack: Stack) -> None:
    part = stack._parts["one"]
    pauses = [stack._pause_before_restart(part) for _ in range(9)]
    assert pauses == [0, 1, 2, 4, 8, 16, 30, 30, 30]
    part.started -= 61
    assert stack._pause_before_restart(part) == 0
    stack.stop()
