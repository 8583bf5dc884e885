"""The real stack (Valkey, Triton, Ray Serve, the decoder), started once for this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from samserve.local.stack import Stack, StackOptions
from stacks import client, encoded, new_photo, patience, started

__all__ = ["client", "encoded", "new_photo", "patience"]


@pytest.fixture(scope="package")
def stack(patience: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with started(StackOptions(), tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture(scope="session")
def coins() -> Path:
    return Path(__file__).parents[2] / "examples" / "coins.png"
