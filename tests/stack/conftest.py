"""The real stack: Valkey, Triton, Ray Serve and the decoder, started once for all tests of this folder."""

from __future__ import annotations

import io
import json
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samserve.client import Client
from samserve.local.stack import Stack, StackOptions


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


@dataclass(frozen=True)
class Encoded:
    """Triton's own count of images encoded, and of the runs that took."""

    images: int
    runs: int

    def __sub__(self, before: Encoded) -> Encoded:
        return Encoded(self.images - before.images, self.runs - before.runs)


@pytest.fixture
def encoded(stack: Stack) -> Callable[[], Encoded]:
    def read() -> Encoded:
        url = f"http://{stack.addresses.triton_http}/v2/models/nano/stats"
        with urllib.request.urlopen(url, timeout=5) as answer:
            (stats,) = json.load(answer)["model_stats"]
        return Encoded(int(stats["inference_count"]), int(stats["execution_count"]))

    return read


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


@pytest.fixture
def coins() -> Path:
    return Path(__file__).parents[2] / "examples" / "coins.png"
