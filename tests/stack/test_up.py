"""`samserve up` on the machines that users have: odd paths, a proxy, Ctrl-C at any time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import samserve
from stacks import CAP, until

SERVICES = Path(samserve.__file__).parents[1]
SAMSERVE = ["-m", "samserve.cli.main"]
UP = ["up", "--embedding-port", "0", "--decoder-port", "0", "--edge-port", "0"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout, with its environment, in a folder with a space and letters outside ASCII."""
    checkout = tmp_path / "Köln (2)"
    checkout.mkdir()
    (checkout / "services").symlink_to(SERVICES)
    (checkout / ".venv").symlink_to(sys.prefix)
    return checkout


@pytest.fixture
def environment(checkout: Path) -> dict[str, str]:
    """A proxy that nobody runs, and a home and a temporary folder with odd names."""
    folders = {name: checkout / f"{name} é" for name in ("HOME", "TMPDIR", "XDG_STATE_HOME")}
    for folder in folders.values():
        folder.mkdir()
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), "http://127.0.0.1:9")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("no_proxy", "REDIS_URL", "TRITON_URL", "DECODER_URL", "EMBEDDING_URL")
    }
    return {
        **kept,
        **proxies,
        **{name: str(folder) for name, folder in folders.items()},
        "PYTHONPATH": str(checkout / "services"),
    }


def python(checkout: Path) -> str:
    return str(checkout / ".venv" / "bin" / "python")


@contextmanager
def up(checkout: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """The command, killed at the end of the block if it still runs."""
    command = [python(checkout), *SAMSERVE, *UP]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run(
    checkout: Path, environment: dict[str, str], *words: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python(checkout), *SAMSERVE, *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=2 * CAP,
        check=False,
    )


def environments(mark: str) -> dict[int, str]:
    """The environments of processes that have a variable of this value, by process id."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            text = (folder / "environ").read_text(errors="replace")
            zombie = ") Z " in (folder / "stat").read_text(errors="replace")
        except OSError:
            continue
        if mark in text and not zombie and int(folder.name) != os.getpid():
            found[int(folder.name)] = text
    return found


def test_up_serves_from_odd_paths_and_leaves_nothing(
    checkout: Path, environment: dict[str, str], coins: Path
) -> None:
    mark = f"XDG_STATE_HOME={environment['XDG_STATE_HOME']}"
    with up(checkout, environment) as process:
        status = run(checkout, environment, "status", "--wait", str(CAP), "--json")
        assert status.returncode == 0, (status.stdout, status.stderr)
        segmented = run(checkout, environment, "segment", str(coins), "--point", "213,193")
        assert segmented.returncode == 0, segmented.stderr
        ours = environments(mark)
        assert len(ours) > 10
        (run_folder,) = {
            line.partition("=")[2]
            for text in ours.values()
            for line in text.split("\0")
            if line.startswith("SAMSERVE_RUN_FOLDER=")
        }
        assert Path(run_folder).is_dir()
        assert json.loads(status.stdout)["restarts"] == dict.fromkeys(
            ("redis", "triton", "embedding", "decoder", "gateway", "edge"), 0
        )
        process.send_signal(signal.SIGINT)
        process.wait(CAP)
        assert process.returncode == 0
    until(lambda: not environments(mark))
    assert not Path(run_folder).exists()
    assert list(Path(environment["TMPDIR"]).iterdir()) == []
    left = [
        file
        for name in ("HOME", "XDG_STATE_HOME")
        for file in Path(environment[name]).rglob("*")
        if file.is_file()
    ]
    assert left == []


def test_ctrl_c_while_it_starts_ends_it_at_once(
    checkout: Path, environment: dict[str, str]
) -> None:
    mark = f"XDG_STATE_HOME={environment['XDG_STATE_HOME']}"
    with up(checkout, environment) as process:
        assert process.stderr is not None
        lines = []
        while "embedding" not in (line := process.stderr.readline()):
            assert line, lines
            lines.append(line)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        process.wait(CAP)
    assert process.returncode == 0, rest
    assert "ready" not in rest
    assert "starting decoder" not in rest
    until(lambda: not environments(mark))


def test_a_killed_up_takes_its_parts_along(checkout: Path, environment: dict[str, str]) -> None:
    mark = f"XDG_STATE_HOME={environment['XDG_STATE_HOME']}"
    with up(checkout, environment) as process:
        assert process.stderr is not None
        while "embedding" not in (line := process.stderr.readline()):
            assert line
        until(lambda: len(environments(mark)) > 3)
        process.kill()
    until(lambda: not environments(mark))
