"""For all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine may take any time for an example.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

TESTS = Path(__file__).parent
STACK = (TESTS / "stack", TESTS / "faults", TESTS / "chart" / "test_ray.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts the real stack, so that `pytest -m "not stack"` is the fast part."""
    for item in items:
        if any(item.path.is_relative_to(place) for place in STACK):
            item.add_marker(pytest.mark.stack)
