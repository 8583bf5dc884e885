"""The real stack: Valkey, Triton, Ray Serve and the decoder, started once for all tests of this folder."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import triton_api
from PIL import Image
from samserve.client import Client
from samserve.local.stack import Stack, StackOptions
from triton_api import Encoded


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(StackOptions(), tmp_path_factory.mktemp("stack"))
    stack.start()
    yield stack
    stack.stop()


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with Client(stack.addresses.decoder, stack.addresses.embedding) as client:
        yield client


@pytest.fixture
def encoded(stack: Stack) -> Callable[[], Encoded]:
    return lambda: triton_api.encoded(stack, "nano")


@pytest.fixture
def new_photo() -> Callable[..., bytes]:
    """Makes photos that no test has sent before."""
    rng = np.random.default_rng()

    def make(width: int = 320, height: int = 200) -> bytes:
        pixels = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).resize((width, height)).save(out, "PNG")
        return out.getvalue()

    return make


@pytest.fixture(scope="session")
def coins() -> Path:
    return Path(__file__).parents[2] / "examples" / "coins.png"
