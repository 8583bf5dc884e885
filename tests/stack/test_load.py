"""A few seconds of the load test, and decoders replaced under load, on the real stack."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from samserve.local.process import free_port
from samserve.local.stack import Stack

from loadtest.load import rolling

LOAD = ["-m", "loadtest.load.run_load"]


@pytest.mark.parametrize(
    "load", [["--rate", "6"], ["--users", "4", "--new", "0.2", "--batch-jobs", "1"]]
)
def test_a_load_is_made_judged_and_reported(stack: Stack, tmp_path: Path, load: list[str]) -> None:
    where = ["--decoder", stack.addresses.decoder, "--embedding", stack.addresses.embedding]
    command = [
        sys.executable,
        *LOAD,
        *where,
        *load,
        "--minutes",
        "0.1",
        "--judge",
        "answered",
        "--out",
        str(tmp_path),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["holds"]
    assert summary["figures"]["clicks_per_second"] > 0
    assert summary["figures"]["decode_ms"] > 0
    assert (tmp_path / "report.html").read_text().count("<svg") == 4
    if "--batch-jobs" in load:
        assert summary["codes"]["bulk"]["OK"] > 0


def test_a_service_that_is_not_there_is_said_in_a_sentence(tmp_path: Path) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    command = [
        sys.executable,
        *LOAD,
        "--decoder",
        nowhere,
        "--embedding",
        nowhere,
        "--out",
        str(tmp_path),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 2
    assert f"the decoder at {nowhere} cannot be loaded" in ended.stderr


def test_decoders_replaced_under_load_lose_nothing(stack: Stack) -> None:
    ports = {"rolled-1": free_port(), "rolled-2": free_port()}
    for name, port in ports.items():
        stack.start_decoder(name, port, free_port())
    try:
        rolled = rolling.roll(stack, ports)
    finally:
        for name in ports:
            stack.programs.pop(name).stop()
    assert rolled.lost == []
    assert rolled.clicks > 0
    assert rolled.steps > 0
    assert rolled.moved > 0
