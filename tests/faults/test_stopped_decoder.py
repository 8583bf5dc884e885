"""One of two decoders stands still: callers lose neither calls nor most of the throughput."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from faults.load import SAME, Sample, overlap
from samserve.client import Client
from samserve.local.process import free_port
from samserve.local.stack import Stack
from stacks import CAP, metric, stopped, until

CALLERS = 3
CLICKS = 40  # of each caller in a round


@pytest.fixture
def second(stack: Stack) -> Iterator[tuple[str, str]]:
    """Address and metrics of another decoder."""
    port, metrics = free_port(), free_port()
    stack.start_decoder("decoder 2", port, metrics)
    yield f"127.0.0.1:{port}", f"127.0.0.1:{metrics}"
    stack.programs.pop("decoder 2").stop()


def clicks(metrics: str) -> float:
    return metric(metrics, "samserve_requests_total", method="Predict")


def click(client: Client, samples: list[Sample]) -> float:
    """Click on all images in turn from several threads; return clicks per second."""

    def one(number: int) -> None:
        sample = samples[number % len(samples)]
        assert overlap(client.segment(sample.photo, [sample.click]), sample.mask) >= SAME

    began = time.monotonic()
    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(one, range(CALLERS * CLICKS)))
    return CALLERS * CLICKS / (time.monotonic() - began)


def test_a_stopped_decoder_takes_no_others_traffic(
    stack: Stack, second: tuple[str, str], samples: list[Sample]
) -> None:
    address, metrics = second
    target = f"ipv4:{stack.addresses.decoder},{address}"
    with Client(target, stack.addresses.embedding, timeout=CAP) as client:

        def both_are_used() -> bool:
            before = clicks(metrics), clicks(stack.addresses.decoder_metrics)
            click(client, samples)
            after = clicks(metrics), clicks(stack.addresses.decoder_metrics)
            return all(late > early for early, late in zip(before, after, strict=True))

        until(both_are_used)
        quiet = click(client, samples)
        with stopped(stack, "decoder 2"):
            rates = [click(client, samples) for _ in range(3)]
        answered = clicks(stack.addresses.decoder_metrics)

        # Later it gets its share again.
        until(both_are_used)

    print(f"clicks/s: {quiet:.0f} with two, {', '.join(f'{rate:.0f}' for rate in rates)} with one")
    assert answered >= CALLERS * CLICKS * 3
    assert max(rates) > quiet / 4  # one decoder is half of them; without hedging it was 1/80
