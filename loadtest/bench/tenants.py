"""Benchmark of what tenants notice of each other: `make bench`.

- Guessing by time: calls by id for images that another tenant has cached, and for images that
  nobody has. A two-sample Kolmogorov-Smirnov test must not tell them apart. As a control it must
  tell images of one's own from unknown ones.
- Fairness: one tenant sends four times its quota; the other's p95 is compared with a quiet one.
- The fair queue's price for a tenant alone, against a plain pool of threads.

Writes build/bench/tenants.json.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from samserve.bundles.bundle import load_bundle
from samserve.bundles.names import SHIPPED
from samserve.client import CachedImage, Click, Client
from samserve.core.embedding import Embedding
from samserve.core.errors import EmbeddingNotCached, Overloaded
from samserve.core.geometry import Size
from samserve.decoder.admission import DecodeQueue
from samserve.decoder.prompt import Prompt
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.threads import Threads
from samserve.infra.pool import run_in_pool
from samserve.local.stack import StackOptions, running

from loadtest.bench.report import Row, report

IMAGE = Path("examples/coins.png")
CLICK = [Click(213.0, 193.0)]
TRIES = int(os.environ.get("TRIES", "2000"))  # of each kind
IMAGES = 20  # of the other tenant
QUOTA = 300  # requests a minute
EXCESS = 4  # times the quota
CLICKS = 80  # of the other tenant, in each phase
PAUSE = 0.2  # seconds between them
ROUNDS = 5
PIECES = 300  # in a round
CALLERS = 6


def ks_p_value(first: list[float], second: list[float]) -> float:
    """Return the p-value of the two-sample Kolmogorov-Smirnov test, asymptotically."""
    a, b = np.sort(first), np.sort(second)
    every = np.concatenate([a, b])
    apart = np.abs(
        np.searchsorted(a, every, "right") / len(a) - np.searchsorted(b, every, "right") / len(b)
    ).max()
    size = math.sqrt(len(a) * len(b) / (len(a) + len(b)))
    x = (size + 0.12 + 0.11 / size) * apart
    if x < 0.2:
        return 1.0
    return min(1.0, 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 101)))


def guessing(decoder: str, embedding: str) -> list[Row]:
    """Try to tell by time what another tenant has cached."""
    with Client(decoder, embedding, tenant="owner") as client:
        owner = client
        photo = IMAGE.read_bytes()
        cached = [owner.embed(photo + bytes(n + 1)).image_id for n in range(IMAGES)]
        own = [owner.using(tenant="guesser").embed(photo + bytes(99 + n)) for n in range(2)]
        guesser = owner.using(tenant="guesser", timeout=60)
        calls: dict[str, Callable[[str], object]] = {
            "embedding service": lambda name: guesser.using().embed(CachedImage(name)),
            "decoder": lambda name: guesser.using().segment(CachedImage(name), CLICK),
        }
        rows = []
        for service, call in calls.items():
            kinds = {
                "theirs": lambda: random.choice(cached),  # noqa: S311
                "nobody's": lambda: os.urandom(32).hex(),
                "mine": lambda: own[0].image_id,
            }
            times = _times_in_turn(call, kinds)
            same = ks_p_value(times["theirs"], times["nobody's"])
            control = ks_p_value(times["mine"], times["nobody's"])
            print(f"{service}: p {same:.3f} of {TRIES} tries each, control {control:.1e}")
            rows += [
                Row(f"{service}: p, another's or nobody's", same, "p", "0.05", 0.05, ">= 1"),
                Row(
                    f"{service}: p, own or nobody's",
                    max(control, 1e-300),
                    "p",
                    "0.05",
                    0.05,
                    "<= 1",
                ),
            ]
        return rows


def _times_in_turn(
    call: Callable[[str], object], kinds: dict[str, Callable[[], str]]
) -> dict[str, list[float]]:
    """Time calls of each kind, in random order in each round, so that drift affects all alike."""
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(TRIES + 20):
        for kind in random.sample(list(kinds), len(kinds)):
            name = kinds[kind]()
            started = time.perf_counter()
            with suppress(EmbeddingNotCached):
                call(name)
            if number >= 20:  # warm by now
                times[kind].append(time.perf_counter() - started)
    return times


@contextmanager
def greedy(client: Client, counts: dict[str, int]) -> Iterator[None]:
    """Another tenant sends EXCESS times its quota during the block, from an open loop."""
    stop = threading.Event()

    def click() -> None:
        try:
            client.segment(IMAGE.read_bytes(), CLICK)
            counts["answered"] += 1
        except Overloaded:
            counts["refused"] += 1

    def send() -> None:
        interval = 60 / (EXCESS * QUOTA)
        due = time.monotonic()
        with ThreadPoolExecutor(32) as pool:
            while not stop.is_set():
                pool.submit(click)
                due += interval
                time.sleep(max(0.0, due - time.monotonic()))

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        stop.set()
        sender.join()


def fairness(decoder: str, embedding: str) -> list[Row]:
    """Time one tenant's clicks, alone and beside one that sends far too much, in turn."""
    quiet: list[float] = []
    beside: list[float] = []
    counts = {"answered": 0, "refused": 0}
    with (
        Client(decoder, embedding, tenant="b", timeout=60) as modest,
        Client(decoder, embedding, tenant="a", timeout=0.3) as sender,
    ):
        modest.segment(IMAGE.read_bytes(), CLICK)
        sender.using(timeout=60).segment(IMAGE.read_bytes(), CLICK)
        for _ in range(2):
            quiet += _paced(modest)
            with greedy(sender, counts):
                beside += _paced(modest)
    p95 = [statistics.quantiles(each, n=20)[-1] for each in (beside, quiet)]
    print(f"the other tenant: {counts}")
    return [
        Row(
            "click's p95 beside 4 times a quota",
            1000 * p95[0],
            "ms",
            "quiet",
            1000 * p95[1],
            "<= 1.5",
        )
    ]


def _paced(client: Client) -> list[float]:
    times = []
    for _ in range(CLICKS // 2):
        started = time.perf_counter()
        client.segment(IMAGE.read_bytes(), CLICK)
        times.append(time.perf_counter() - started)
        time.sleep(PAUSE)
    return times


def price() -> list[Row]:
    """Compare the fair queue with a plain pool, for one tenant's clicks."""
    bundle = load_bundle(SHIPPED / "nano")
    decoder = MaskDecoder(bundle, Threads(2))
    blank = {name: np.zeros(shape, np.float16) for name, shape in bundle.embedding.items()}
    image = decoder.prepare(Embedding(bundle.model_version, Size(1024, 1024), blank))
    click = Prompt(np.full((1, 2), 300, np.float32), np.ones(1, np.float32), None, None, True)

    def work() -> object:
        return decoder.decode(image, [click])

    async def measure() -> tuple[float, float]:
        with ThreadPoolExecutor(2) as pool:
            queue = DecodeQueue(2, 24)
            ways: list[Callable[[], Awaitable[object]]] = [
                lambda: queue.run(pool, work),
                lambda: run_in_pool(pool, work),
            ]
            seconds: list[list[float]] = [[], []]
            for round_ in range(ROUNDS + 1):
                for number, way in enumerate(ways):
                    took = await _closed_loop(way)
                    if round_:
                        seconds[number].append(took)
        return statistics.median(seconds[0]), statistics.median(seconds[1])

    fair, plain = asyncio.run(measure())
    rates = PIECES / fair, PIECES / plain
    return [
        Row("clicks a second of one tenant", rates[0], "/s", "a plain pool", rates[1], ">= 0.97")
    ]


async def _closed_loop(call: Callable[[], Awaitable[object]]) -> float:
    left = iter(range(PIECES))

    async def caller() -> None:
        for _ in left:
            await call()

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return time.perf_counter() - started


def main() -> None:
    rows = price()
    os.environ["SAMSERVE_TENANT_REQUESTS"] = str(10**9)
    with running(StackOptions(edge=False)) as stack:
        rows += guessing(stack.addresses.decoder, stack.addresses.embedding)
        stack.programs["decoder"].stop()
        os.environ["SAMSERVE_TENANT_REQUESTS"] = str(QUOTA)
        port = int(stack.addresses.decoder.rpartition(":")[2])
        metrics = int(stack.addresses.decoder_metrics.rpartition(":")[2])
        stack.start_decoder("decoder", port, metrics)
        rows += fairness(stack.addresses.decoder, stack.addresses.embedding)
    report("tenants", rows)


if __name__ == "__main__":
    main()
