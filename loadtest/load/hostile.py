"""Hostile images against the embedding service: `make soak`. 10,000 of them, 8 at a time, on the real stack.

Each is answered OK or INVALID_ARGUMENT, by the same process from first to last, whose memory stays flat.
Writes build/bench/hostile.json.
"""

from __future__ import annotations

import itertools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from hostile_images import hostile_images
from rich.console import Console
from rich.progress import track
from samserve.local.stack import StackOptions, running
from samserve.v1 import embedding_pb2, embedding_pb2_grpc

from loadtest.bench.report import Row, kilobytes, report

IMAGES, SETTLED, AT_ONCE, SECONDS = 10_000, 1_000, 8, 60.0
FINE = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}
GOOD = Path(__file__).parents[2] / "examples" / "coins.png"


def replicas(ancestor: int) -> set[int]:
    """The process ids of the embedding service's replicas under a stack's Ray."""
    processes = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
    return {
        int(path.name)
        for path in processes
        if b"ServeReplica" in _read(path, "cmdline") and _under(path, ancestor)
    }


def _under(path: Path, ancestor: int) -> bool:
    while path.name not in ("0", str(ancestor)):
        stat = _read(path, "stat")
        path = path.with_name(stat.rpartition(b")")[2].split()[1].decode() if stat else "0")
    return path.name != "0"


def _read(path: Path, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except OSError:  # it has ended
        return b""


def send(stub: embedding_pb2_grpc.EmbeddingServiceStub, data: bytes) -> tuple[grpc.StatusCode, str]:
    try:
        stub.Embed(embedding_pb2.EmbedRequest(data=data), timeout=SECONDS)
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def memory(pids: set[int]) -> int:
    """What they have resident, in KiB."""
    return sum(kilobytes(pid, "VmRSS") for pid in pids)


def main() -> None:
    codes: Counter[grpc.StatusCode] = Counter()
    images = itertools.islice(hostile_images(seed=4), IMAGES)
    grown: list[int] = []
    with (
        running(StackOptions()) as stack,
        grpc.insecure_channel(stack.addresses.embedding) as channel,
    ):
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        before = replicas(stack.programs["embedding"].pid)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in track(range(IMAGES // SETTLED), "thousands of hostile images"):
                for code, words in pool.map(
                    lambda data: send(stub, data), itertools.islice(images, SETTLED)
                ):
                    if code not in FINE:
                        raise SystemExit(f"{code.name}: {words}")
                    codes[code] += 1
                grown.append(memory(before))
        if replicas(stack.programs["embedding"].pid) != before:
            raise SystemExit("a replica has ended, and another has taken its place")
        if send(stub, GOOD.read_bytes())[0] is not grpc.StatusCode.OK:
            raise SystemExit("a good image is not answered any more")
    Console().print(
        {code.name: count for code, count in codes.items()},
        "MiB:",
        [size // 1024 for size in grown],
    )
    name = f"memory after {IMAGES:,} hostile images"
    report(
        "hostile",
        [Row(name, grown[-1] / 1024, "MiB", f"after {SETTLED:,}", grown[0] / 1024, "<= 1.02")],
    )


if __name__ == "__main__":
    main()
