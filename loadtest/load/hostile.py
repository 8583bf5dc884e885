"""Sends 10,000 hostile images, 8 at a time, to the embedding service of a real stack: `make soak`.

Each must be answered with OK or INVALID_ARGUMENT. The same process must answer them all, and its
memory must stay flat. Writes build/bench/hostile.json.
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

IMAGES = 10_000
SETTLED = 1_000  # images between two readings of the memory
AT_ONCE = 8
TIMEOUT = 60.0  # seconds
ALLOWED = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}
VALID_IMAGE = Path(__file__).parents[2] / "examples" / "coins.png"


def replicas(ancestor: int) -> set[int]:
    """Process ids of the embedding service's replicas, below the process that started Ray."""
    processes = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
    return {
        int(path.name)
        for path in processes
        if b"ServeReplica" in _read(path, "cmdline") and _is_below(path, ancestor)
    }


def _is_below(path: Path, ancestor: int) -> bool:
    while path.name not in ("0", str(ancestor)):
        stat = _read(path, "stat")
        parent = stat.rpartition(b")")[2].split()[1].decode() if stat else "0"
        path = path.with_name(parent)
    return path.name != "0"


def _read(path: Path, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except OSError:  # the process has ended
        return b""


def send(stub: embedding_pb2_grpc.EmbeddingServiceStub, data: bytes) -> tuple[grpc.StatusCode, str]:
    try:
        stub.Embed(embedding_pb2.EmbedRequest(data=data), timeout=TIMEOUT)
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def memory(pids: set[int]) -> int:
    """Resident memory of the processes in KiB."""
    return sum(kilobytes(pid, "VmRSS") for pid in pids)


def main() -> None:
    codes: Counter[grpc.StatusCode] = Counter()
    images = itertools.islice(hostile_images(seed=4), IMAGES)
    sizes: list[int] = []

    with (
        running(StackOptions()) as stack,
        grpc.insecure_channel(stack.addresses.embedding) as channel,
    ):
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        ray = stack.programs["embedding"].pid
        before = replicas(ray)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in track(range(IMAGES // SETTLED), "thousands of hostile images"):
                batch = itertools.islice(images, SETTLED)
                for code, message in pool.map(lambda data: send(stub, data), batch):
                    if code not in ALLOWED:
                        raise SystemExit(f"a hostile image was answered {code.name}: {message}")
                    codes[code] += 1
                sizes.append(memory(before))

        after = replicas(ray)
        if after != before:
            raise SystemExit(f"a replica was replaced: processes {before} became {after}")

        code, message = send(stub, VALID_IMAGE.read_bytes())
        if code is not grpc.StatusCode.OK:
            raise SystemExit(f"a valid image was answered {code.name}: {message}")

    counts = {code.name: count for code, count in codes.items()}
    Console().print(counts, "MiB:", [size // 1024 for size in sizes])

    name = f"memory after {IMAGES:,} hostile images"
    report(
        "hostile",
        [Row(name, sizes[-1] / 1024, "MiB", f"after {SETTLED:,}", sizes[0] / 1024, "<= 1.02")],
    )


if __name__ == "__main__":
    main()
