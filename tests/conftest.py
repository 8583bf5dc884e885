"""For all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings
from needs_torch import pytest_ignore_collect, pytest_terminal_summary  # noqa: F401

# Before torch is imported: its threads sleep while they wait for each other. By default they spin,
# which takes several times the processor time, above all on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A busy machine may take any time for an example.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

TESTS = Path(__file__).parent
WEB = ("test_accessibility.py", "test_failures.py", "test_labeling.py")
STACK = (
    *(TESTS / name for name in ("stack", "faults", "clients", "chart/test_ray.py")),
    *(TESTS / "web" / name for name in WEB),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts the real stack, so that `pytest -m "not stack"` is the fast part."""
    for item in items:
        if any(item.path.is_relative_to(place) for place in STACK):
            item.add_marker(pytest.mark.stack)
