"""The real stack, for clients that need nothing else of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from samserve.local.stack import Stack, StackOptions
from stacks import client, patience, started

__all__ = ["client", "patience"]

COINS = Path(__file__).parents[2] / "examples" / "coins.png"


@pytest.fixture(scope="package")
def stack(patience: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with started(StackOptions(), tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture(scope="session")
def coins() -> Path:
    return COINS
