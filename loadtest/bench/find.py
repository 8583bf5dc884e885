"""Benchmark of text prompts: `python -m loadtest.bench.find --bundles FOLDER --model NAME`.

Needs an exported SAM 3, of any size and with any weights. The peer of a repeated search is a click;
of ten phrases in one call, ten calls; of clicks beside searches, clicks alone. Each search takes
new phrases unless it says otherwise. Writes build/bench/find.json.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from samserve.client import Click, Client
from samserve.local.stack import Stack, StackOptions, running
from samserve.wire.channel import proxy_options
from tritonclient.grpc import InferenceServerClient

from loadtest.bench.report import Row, medians, report

IMAGE = Path("examples/coins.png")
CLICK = (213.0, 193.0)  # x, y in pixels
LOW = 0.1  # threshold of the first search; random weights give low scores
ROUNDS = 25
PHRASES = 10
CLICKS = 150
PAUSE = 0.05  # seconds between clicks of a person who is fast
TIMEOUT = 600.0


def runs(stack: Stack, model: str) -> int:
    """Return how often Triton has run a model."""
    address = stack.addresses.triton
    with InferenceServerClient(address, channel_args=proxy_options(address)) as client:
        (stats,) = client.get_inference_statistics(model).model_stats
    return int(stats.execution_count)


def p95_of_clicks(click: Callable[[], object]) -> float:
    """Return the 95th percentile of clicks' times, in milliseconds."""
    times = []
    for _ in range(CLICKS):
        time.sleep(PAUSE)
        started = time.perf_counter()
        click()
        times.append(1000 * (time.perf_counter() - started))
    return float(np.percentile(times, 95))


@contextmanager
def repeating(work: Callable[[], object]) -> Iterator[None]:
    """Repeat some work in a thread during the block."""
    stopping = threading.Event()

    def repeat() -> None:
        while not stopping.is_set():
            work()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def measure(stack: Stack, client: Client, model: str) -> list[Row]:
    numbers = itertools.count()

    def phrases(count: int) -> list[str]:
        return [f"{next(numbers)}" for _ in range(count)]

    def click() -> object:
        return client.segment(IMAGE, [Click(*CLICK)])

    # A search again, with another threshold and format.
    client.find(IMAGE, ["coin", "table"], threshold=LOW)
    heads = runs(stack, f"{model}-concepts"), runs(stack, f"{model}-text")
    again = medians(
        {
            "again": lambda: client.find(
                IMAGE, ["coin", "table"], threshold=0.5, formats=["polygons"]
            ),
            "click": click,
        },
        ROUNDS,
    )
    after = runs(stack, f"{model}-concepts"), runs(stack, f"{model}-text")
    inferences = sum(after) - sum(heads)
    print(f"inferences of {ROUNDS + 1} repeated searches: {inferences}")
    if inferences:
        raise SystemExit("a repeated search ran a model")

    # Ten phrases, whose features are known, in one call and in ten.
    def known(count: int) -> list[str]:
        names = phrases(count)
        client.find("examples/coins.png", names)
        return names

    images = iter(new_images())

    def together(names: list[str], image: bytes) -> float:
        started = time.perf_counter()
        client.find(image, names)
        return time.perf_counter() - started

    def apart(names: list[str], image: bytes) -> float:
        started = time.perf_counter()
        for name in names:
            client.find(image, name)
        return time.perf_counter() - started

    names = known(PHRASES)
    one_call, ten_calls = [], []
    for _ in range(5):
        for times, work in ((one_call, together), (ten_calls, apart)):
            image = next(images)
            client.embed(image)
            times.append(1000 * work(names, image))

    # Clicks of another caller.
    quiet = p95_of_clicks(click)
    with repeating(lambda: client.find(IMAGE, phrases(4))):
        busy = p95_of_clicks(click)
    quiet = statistics.mean([quiet, p95_of_clicks(click)])

    return [
        Row("a search again, other threshold and format", again["again"], "ms", "a click",
            again["click"], "<= 2"),
        Row("ten phrases in one call", statistics.median(one_call), "ms", "ten calls",
            statistics.median(ten_calls), "<= 0.75"),
        Row("another caller's click while searches run, p95", busy, "ms", "quiet", quiet,
            "<= 1.5"),
    ]  # fmt: skip


def new_images() -> Iterator[bytes]:
    """Yield images that were never sent."""
    data = IMAGE.read_bytes()
    for number in itertools.count():
        # Bytes after a PNG's end do not change the image, but its id.
        yield data + number.to_bytes(8, "big") + time.time_ns().to_bytes(8, "big")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundles", type=Path, required=True)
    parser.add_argument("--model", required=True)
    given = parser.parse_args()

    options = StackOptions(models=(given.model,), bundles=given.bundles)
    with (
        running(options) as stack,
        Client(stack.addresses.decoder, stack.addresses.embedding, timeout=TIMEOUT) as client,
    ):
        report("find", measure(stack, client, given.model))


if __name__ == "__main__":
    main()
