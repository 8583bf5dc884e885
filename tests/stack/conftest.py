"""The real stack (Valkey, Triton, Ray Serve, the decoder), started once for this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from samserve.local.stack import Stack, StackOptions
from stacks import client, encoded, new_photo

__all__ = ["client", "encoded", "new_photo"]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(StackOptions(), tmp_path_factory.mktemp("stack"))
    stack.start()
    yield stack
    stack.stop()


@pytest.fixture(scope="session")
def coins() -> Path:
    return Path(__file__).parents[2] / "examples" / "coins.png"
