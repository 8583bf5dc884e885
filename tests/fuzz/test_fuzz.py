"""Each fuzz target for a fixed number of inputs from a fixed seed; `make fuzz` runs for longer."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.__main__ import TARGETS, fuzz

# Inputs that take some seconds of CPU.
RUNS = {
    "calls": 1500,
    "entries": 6000,
    "images": 3000,
    "label_studio": 3000,
    "polygons": 500,
    "prompts": 2000,
    "rle": 5000,
}
MOST_GROWTH_MIB = 64


def test_every_target_has_a_number_of_runs_and_seeds() -> None:
    assert set(TARGETS) == set(RUNS)
    for target in TARGETS:
        assert any((Path(__file__).parent / "corpus" / target).iterdir())


@pytest.mark.parametrize("target", RUNS)
def test_no_input_crashes_hangs_or_takes_memory(target: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="needs the extra `fuzz`: pip install 'samserve[fuzz]'")
    report = fuzz(target, tmp_path / target, f"-runs={RUNS[target]}", "-seed=1")
    assert not report.failed, report.output[-4000:]
    assert report.executions >= RUNS[target] - 500  # it counts in steps of 500
    assert report.growth_mib < MOST_GROWTH_MIB
