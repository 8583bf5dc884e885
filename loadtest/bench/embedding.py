"""Benchmark of the embedding service, stage by stage, against its parts alone: `make bench`.

Measures hits by id and by bytes, misses, and concurrent misses with Triton's batches, through a
real stack. The peers run beside it: an empty call through Ray Serve's default gRPC proxy, and
Triton called directly, with the image decoded and resized by the caller. Writes
build/bench/embedding.json.
"""

from __future__ import annotations

import io
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

import grpc
import numpy as np
import skimage.data
from PIL import Image
from rich.console import Console
from samserve.bundles.bundle import load_bundle
from samserve.bundles.names import SHIPPED
from samserve.core.image import frame_image
from samserve.core.image_id import image_id
from samserve.infra.settings import EmbeddingSettings
from samserve.local.process import Program, accepts_connections, free_port
from samserve.local.stack import Stack, StackOptions, running
from samserve.v1 import embedding_pb2 as pb
from samserve.v1 import embedding_pb2_grpc as rpc
from samserve.wire.channel import message_limits
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput

from loadtest.bench.report import IDLE, Row, medians, report, throughput

ROUNDS = 21
MISSES = 15
AT_ONCE, BATCHES = 8, 6  # concurrent new images, and how often
IN_FLIGHT = 32
DEFAULT_PROXY = "an empty call, Ray Serve's default proxy"
BARE = "decode, resize and Triton alone"
_numbers = count()


def new_image(megapixels: float = 1.0, least_bytes: int = 0) -> bytes:
    """Return a JPEG with pixels that no earlier one had.

    Args:
        megapixels: Its size.
        least_bytes: Minimum size of the file; zeros after the end of the JPEG pad it.
    """
    side = round((megapixels * 1e6 * 4 / 3) ** 0.5), round((megapixels * 1e6 * 3 / 4) ** 0.5)
    pixels = np.array(Image.fromarray(skimage.data.chelsea()).resize(side))
    rng = np.random.default_rng([os.getpid(), next(_numbers)])
    pixels[:8, :8] = rng.integers(0, 256, (8, 8, 3))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue().ljust(least_bytes, b"\0")


class Service:
    """The Embed call without the retries of the client library."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, options=message_limits(32 * 2**20))
        self._embed = rpc.EmbeddingServiceStub(self._channel).Embed

    def by_id(self, name: str) -> pb.EmbedResponse:
        return self._embed(pb.EmbedRequest(image_id=name), timeout=60)

    def by_bytes(self, data: bytes) -> pb.EmbedResponse:
        return self._embed(pb.EmbedRequest(data=data), timeout=60)


class BareEncode:
    """The work of a miss and nothing else: decode and resize here, then call Triton."""

    def __init__(self, address: str) -> None:
        self._triton = InferenceServerClient(address)
        self._bundle = load_bundle(SHIPPED / "nano")

    def miss(self, data: bytes) -> None:
        image = frame_image(data, self._bundle.frame, EmbeddingSettings().image_limits)
        pixels = InferInput("image", [1, *image.pixels.shape], "UINT8")
        pixels.set_data_from_numpy(image.pixels[None])
        valid = InferInput("valid", [1, 2], "INT32")
        valid.set_data_from_numpy(np.array([[image.valid.height, image.valid.width]], np.int32))

        names = list(self._bundle.embedding)
        outputs = [InferRequestedOutput(name) for name in names]
        result = self._triton.infer("nano", [pixels, valid], outputs=outputs)
        for name in names:
            result.as_numpy(name)


@contextmanager
def empty_service(folder: Path) -> Iterator[Service]:
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "loadtest.bench.empty_service", str(port)]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("RAY_SERVE_")
    }
    program = Program("empty service", command, environment, folder / "empty.log")

    def ready() -> bool:
        try:
            Service(f"127.0.0.1:{port}").by_id("")
        except grpc.RpcError:
            return False
        return True

    try:
        program.wait_ready(lambda: accepts_connections(port) and ready(), 120)
        yield Service(f"127.0.0.1:{port}")
    finally:
        program.stop()


def bench_hits(service: Service, empty: Service) -> list[Row]:
    known = new_image()
    service.by_bytes(known)

    # By id.
    hit, empty_call = partial(service.by_id, image_id(known)), partial(empty.by_id, "")
    times = medians({"hit": hit, "empty": empty_call}, ROUNDS)
    rows = [Row("hit by id", times["hit"], "ms", DEFAULT_PROXY, times["empty"], "<= 0.5")]

    # By bytes.
    for megabytes in (0.2, 1, 5):
        data = new_image(least_bytes=int(megabytes * 2**20))
        service.by_bytes(data)
        works = {"hit": partial(service.by_bytes, data), "empty": partial(empty.by_bytes, data)}
        times = medians(works, ROUNDS)

        name = f"hit by bytes, {megabytes} MB"
        peer = f"{DEFAULT_PROXY}, as many bytes"
        rows.append(Row(name, times["hit"], "ms", peer, times["empty"]))

    # Concurrent calls.
    rate, peer_rate = throughput([hit] * IN_FLIGHT), throughput([empty_call] * IN_FLIGHT)
    name = f"hits by id, {IN_FLIGHT} in flight"
    return [*rows, Row(name, rate, "calls/s", DEFAULT_PROXY, peer_rate)]


def bench_miss(service: Service, bare: BareEncode) -> list[Row]:
    """Measure misses and their stages, with images of one megapixel that are sent once."""
    stages: dict[str, list[float]] = defaultdict(list)
    times: dict[str, list[float]] = {"miss": [], "bare": []}
    bare.miss(new_image())
    for _ in range(MISSES):
        for name in times:
            data = new_image()
            time.sleep(IDLE)
            started = time.perf_counter()
            response = service.by_bytes(data) if name == "miss" else bare.miss(data)
            times[name].append(1000 * (time.perf_counter() - started))
            for timing in response.timings if response else ():
                stages[timing.stage].append(timing.milliseconds)

    miss, alone = statistics.median(times["miss"]), statistics.median(times["bare"])
    rows = [Row("miss, 1 MP", miss, "ms", BARE, alone, "<= 1.15")]
    return rows + [
        Row(f"  its stage {stage}", statistics.median(values), "ms", "the miss", miss)
        for stage, values in stages.items()
    ]


def bench_batches(stack: Stack, service: Service) -> list[Row]:
    """Measure batches of concurrent new images with Triton's counters."""
    before = counters(stack)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in range(BATCHES):
            list(pool.map(service.by_bytes, [new_image() for _ in range(AT_ONCE)]))
    after = counters(stack)

    images, runs, queue, compute = (b - a for a, b in zip(before, after, strict=True))
    name = f"images per run of the encoder, {AT_ONCE} new at once"
    queue_ms, compute_ms = queue / images / 1e6, compute / images / 1e6
    return [
        Row(name, images / runs, "images", "one", 1, ">= 4"),
        Row("  queue, each", queue_ms, "ms", "compute, each", compute_ms),
    ]


def counters(stack: Stack) -> tuple[int, int, int, int]:
    """Number of images and runs; nanoseconds of all images in the queue and in shared runs."""
    with InferenceServerClient(stack.addresses.triton) as triton:
        (stats,) = triton.get_inference_statistics("nano", client_timeout=5).model_stats

    times = stats.inference_stats
    return stats.inference_count, stats.execution_count, times.queue.ns, times.compute_infer.ns


def main() -> None:
    console = Console(stderr=True)

    with (
        tempfile.TemporaryDirectory() as folder,
        empty_service(Path(folder)) as empty,
        running(StackOptions()) as stack,
    ):
        service = Service(stack.addresses.embedding)
        rows = []
        for title, part in {
            "hits": lambda: bench_hits(service, empty),
            "misses": lambda: bench_miss(service, BareEncode(stack.addresses.triton)),
            "batches": lambda: bench_batches(stack, service),
        }.items():
            console.print(f"measuring {title}")
            rows += part()

    report("embedding", rows)


if __name__ == "__main__":
    main()
