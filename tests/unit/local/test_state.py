"""The state file of `samserve up`."""

from __future__ import annotations

import dataclasses
import os
import stat
import subprocess
import sys

import pytest
from samserve.local import state
from samserve.local.process import start_time

REDIS_URL = "redis://me:s3cr%23t@cache.example:6380/1"


@pytest.fixture(autouse=True)
def home(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


@pytest.fixture
def addresses() -> state.Addresses:
    return state.Addresses(
        gateway="http://127.0.0.1:8503",
        gateway_metrics="127.0.0.1:8603",
        embedding="127.0.0.1:8500",
        embedding_metrics="127.0.0.1:1",
        decoder="127.0.0.1:8501",
        decoder_metrics="127.0.0.1:2",
        redis=REDIS_URL,
        triton="127.0.0.1:3",
        triton_metrics="",
        logs="/logs",
        models=("nano",),
        pid=os.getpid(),
        started=start_time(os.getpid()),
    )


def test_the_state_of_a_running_stack_is_read_back(addresses: state.Addresses) -> None:
    state.save_state(addresses)
    assert state.load_state() == addresses


def test_only_its_owner_reads_the_file_and_nobody_sees_the_password(
    addresses: state.Addresses,
) -> None:
    state.save_state(addresses)
    assert stat.S_IMODE(state.state_file().stat().st_mode) == 0o600
    assert addresses.shown()["redis"] == "redis://me:***@cache.example:6380/1"


@pytest.mark.parametrize("url", ["unix:///run/redis.sock", "redis://cache.example"])
def test_any_redis_url_is_shown(addresses: state.Addresses, url: str) -> None:
    assert dataclasses.replace(addresses, redis=url).shown()["redis"] == url


def test_a_file_left_behind_is_no_stack_though_its_pid_is_used_again(
    addresses: state.Addresses,
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    state.save_state(dataclasses.replace(addresses, pid=ended.pid))
    assert state.load_state() is None

    # The pid is another process's by now: it started at another time.
    assert addresses.started is not None
    state.save_state(dataclasses.replace(addresses, started=addresses.started - 1))
    assert state.load_state() is None


def test_a_file_of_an_older_release_is_no_stack(addresses: state.Addresses) -> None:
    file = state.state_file()
    file.parent.mkdir(parents=True)
    file.write_text('{"pid": 1, "models": ["nano"]}')
    assert state.load_state() is None
