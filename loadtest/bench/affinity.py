"""The worth of clicks that find their image: `python -m loadtest.bench.affinity`.

Four decoders keep a tenth of the images in memory, all together. People click several times on an
image, then take another, by Zipf's law. The same clicks go by turns, through the edge, and by the
client's own placement, in turn and in one run. Decoders count themselves how often an image was
ready. Writes build/bench/affinity.json. tests/edge shows what moves when a decoder comes or goes.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import redis
import requests
from prometheus_client.parser import text_string_to_metric_families
from samserve.client import CachedImage, Click, Client
from samserve.core.errors import SamserveError
from samserve.local.process import free_port
from samserve.local.stack import Stack, StackOptions, running
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import segmentation_pb2_grpc as rpc
from samserve.v1 import types_pb2 as types

from loadtest.bench.report import Row, report

PHOTO = Path("examples/coins.png")
DECODERS = 4
IMAGES = 400
SHARE = 10  # all decoders together keep one image in so many
PEOPLE = 32
CLICKS = 12  # of a person on an image
SKEW = 1.0  # Zipf's exponent
WARM, MEASURED = 0.3, 1.0  # shares of a phase

ClickOn = Callable[[str], object]


@dataclass
class Tally:
    """What one way of placing clicks came to."""

    seconds: float = 0.0
    clicks: int = 0
    refused: int = 0
    ready: float = 0.0
    lookups: float = 0.0
    processor: float = 0.0  # seconds of all decoders


@dataclass(frozen=True)
class Decoders:
    """Addresses of the decoders and of their metrics."""

    addresses: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)


def copies(stack: Stack, count: int) -> list[str]:
    """Put one image's embedding into the cache under many ids. Returns the ids."""
    addresses = stack.addresses
    with Client(addresses.decoder, addresses.embedding, timeout=300) as client:
        answer = client.segment(PHOTO, [Click(213, 193)])
    ids = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(count)]
    with redis.Redis.from_url(addresses.redis) as cache:
        (key,) = [key for key in cache.keys("samserve:*") if answer.image_id.encode() in key]
        entry = cache.get(key)
        for image in ids:
            cache.set(key.replace(answer.image_id.encode(), image.encode()), entry)
    return ids


def start_decoders(stack: Stack) -> Decoders:
    """Start decoders that keep just as many images as they are to."""
    made = Decoders()
    prepared = sampled([stack.addresses.decoder_metrics], "samserve_resident_bytes")[""]
    kept = IMAGES // SHARE // DECODERS
    for number in range(DECODERS):
        port, metrics = free_port(), free_port()
        settings = {
            "SAMSERVE_RESIDENT_BYTES": round((kept + 0.5) * prepared),
            "SAMSERVE_DECODE_THREADS": 1,
            "SAMSERVE_DECODE_QUEUE": 2 * PEOPLE,
        }
        stack.start_decoder(f"decoder-{number}", port, metrics, settings)
        made.addresses.append(f"127.0.0.1:{port}")
        made.metrics.append(f"127.0.0.1:{metrics}")
    return made


def start_edge(stack: Stack, decoders: Sequence[str], name: str) -> str:
    port = free_port()
    settings = {
        "DECODER_URL": ",".join(decoders),
        "SAMSERVE_EDGE_PORT": port,
        "SAMSERVE_METRICS_PORT": free_port(),
        "SAMSERVE_EDGE_HEDGE_S": 0,  # so that each click is one
        "SAMSERVE_EDGE_ACCESS_LOG": "off",
    }
    stack.start_edge(name, settings)
    return f"127.0.0.1:{port}"


@contextmanager
def ways(edge: str, decoders: Sequence[str]) -> Iterator[dict[str, ClickOn]]:
    """Yield the ways of placing clicks, by name."""
    listed = "ipv4:" + ",".join(decoders)
    with ExitStack() as stack:
        turns = stack.enter_context(
            grpc.insecure_channel(listed, [("grpc.lb_policy_name", "round_robin")])
        )
        through = stack.enter_context(grpc.insecure_channel(edge))
        placed = stack.enter_context(Client(listed))

        def call(channel: grpc.Channel) -> ClickOn:
            predict = rpc.SegmentationServiceStub(channel).Predict
            prompt = pb.Prompt(points=[types.Point(x=213, y=193)])

            def click(image: str) -> object:
                request = pb.PredictRequest(ref=types.ImageRef(image_id=image), prompts=[prompt])
                return predict(request, timeout=60, metadata=(("samserve-image", image),))

            return click

        yield {
            "turns": call(turns),
            "edge": call(through),
            "client": lambda image: placed.segment(CachedImage(image), [Click(213, 193)]),
        }


def looked_up(metrics: Sequence[str]) -> dict[str, float]:
    """Return how often images were ready ("hit"), and were not ("miss"), over all decoders."""
    return sampled(metrics, "samserve_resident_lookups_total", "outcome")


def sampled(metrics: Sequence[str], name: str, label: str = "") -> dict[str, float]:
    """Return the sums of a metric's samples over some processes, by a label's value."""
    sums: dict[str, float] = {"hit": 0.0, "miss": 0.0} if label else {}
    for address in metrics:
        text = requests.get(f"http://{address}/metrics", timeout=60).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name:
                    value = sample.labels.get(label, "")
                    sums[value] = sums.get(value, 0.0) + sample.value
    return sums


def phase(
    click: ClickOn,
    images: Sequence[str],
    seconds: float,
    seed: int,
    tally: Tally,
    metrics: Sequence[str],
) -> None:
    """Have people click; what comes after the warm-up counts."""
    weights = list(itertools.accumulate(1 / (rank + 1) ** SKEW for rank in range(len(images))))
    counting, over = threading.Event(), threading.Event()
    done = [0] * PEOPLE
    refused = [0] * PEOPLE

    def person(number: int) -> None:
        dice = random.Random(f"{seed} {number}")  # noqa: S311
        while not over.is_set():
            (image,) = dice.choices(images, cum_weights=weights)
            for _ in range(CLICKS):
                if over.is_set():
                    return
                try:
                    click(image)
                    done[number] += counting.is_set()
                except (grpc.RpcError, SamserveError):
                    refused[number] += counting.is_set()
                    time.sleep(0.05)

    threads = [threading.Thread(target=person, args=(number,)) for number in range(PEOPLE)]
    for thread in threads:
        thread.start()
    time.sleep(WARM * seconds)
    before, started = looked_up(metrics), time.perf_counter()
    worked = sampled(metrics, "process_cpu_seconds_total")[""]
    counting.set()
    time.sleep(MEASURED * seconds)
    counting.clear()
    tally.seconds += time.perf_counter() - started
    after = looked_up(metrics)
    tally.processor += sampled(metrics, "process_cpu_seconds_total")[""] - worked
    over.set()
    for thread in threads:
        thread.join()

    tally.clicks += sum(done)
    tally.refused += sum(refused)
    tally.ready += after["hit"] - before["hit"]
    tally.lookups += sum(after.values()) - sum(before.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="of a phase")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()

    with running(StackOptions(edge=False)) as stack:
        images = copies(stack, IMAGES)
        decoders = start_decoders(stack)
        edge = start_edge(stack, decoders.addresses, "edge-four")
        tallies = {name: Tally() for name in ("turns", "edge", "client")}
        with ways(edge, decoders.addresses) as placing:
            for round_ in range(options.rounds):
                for name, click in placing.items():
                    phase(click, images, options.seconds, round_, tallies[name], decoders.metrics)
        for name, tally in tallies.items():
            print(name, tally)

    rates = {name: tally.clicks / tally.seconds for name, tally in tallies.items()}
    costs = {name: 1000 * tally.processor / tally.clicks for name, tally in tallies.items()}
    ready = {name: tally.ready / tally.lookups for name, tally in tallies.items()}
    rows = []
    for name in ("edge", "client"):
        rows += [
            Row(f"clicks by image, {name}", rates[name], "1/s", "in turn", rates["turns"], ">= 3"),
            # What a fleet can carry, whatever else runs on this machine.
            Row(
                f"decoders' time for a click, {name}",
                costs[name],
                "ms",
                "in turn",
                costs["turns"],
                "<= 0.333",
            ),
            Row(f"ready images, {name}", ready[name], "", "all", 1.0, ">= 0.85"),
        ]
    rows.append(Row("ready images, in turn", ready["turns"], "", "all", 1.0))
    report("affinity", rows)


if __name__ == "__main__":
    main()
