"""What one EmbedMany stream does against a call for each image: `make bench`. Writes build/bench/many.json.

The peer is Client.embed in as many threads as the stream may have images in flight. Both ask by hash first.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image
from report import Row, Work, medians, report
from samserve.client import Client
from samserve.local.stack import StackOptions, running

IN_FLIGHT = 16
KNOWN, LOOK_UPS, NEW, ROUNDS = 100, 1000, 40, 5


def photos(count: int, rng: np.random.Generator) -> list[bytes]:
    """JPEGs of 320 x 200 pixels, about 10 KB each."""
    files = []
    for _ in range(count):
        file = io.BytesIO()
        pixels = rng.integers(0, 256, (26, 41, 3), np.uint8)
        Image.fromarray(pixels).resize((320, 200)).save(file, "JPEG")
        files.append(file.getvalue())
    return files


def main() -> None:
    rng = np.random.default_rng()
    with (
        running(StackOptions()) as stack,
        Client(stack.addresses.decoder, stack.addresses.embedding) as client,
        ThreadPoolExecutor(IN_FLIGHT) as pool,
    ):
        known = photos(KNOWN, rng)

        def in_stream(images: Callable[[], list[bytes]]) -> Work:
            return lambda: [done.error for done in client.embed_many(images(), IN_FLIGHT)]

        def in_calls(images: Callable[[], list[bytes]]) -> Work:
            return lambda: list(pool.map(client.embed, images()))

        works = {
            "known, stream": in_stream(lambda: known * (LOOK_UPS // KNOWN)),
            "known, calls": in_calls(lambda: known * (LOOK_UPS // KNOWN)),
            "new, stream": in_stream(lambda: photos(NEW, rng)),
            "new, calls": in_calls(lambda: photos(NEW, rng)),
            "tensors, GetEmbedding": lambda: client.embedding(known[0]),
            "tensors, hit": lambda: client.embed(known[0]),
        }
        times = medians(works, ROUNDS)
    calls = f"calls in {IN_FLIGHT} threads"
    report(
        "many",
        [
            Row(f"{LOOK_UPS} known images", times["known, stream"], "ms", calls, times["known, calls"], "<= 0.5"),
            Row(f"{NEW} new images", times["new, stream"], "ms", calls, times["new, calls"], "<= 1.1"),
            Row(
                "GetEmbedding, 2 MiB",
                times["tensors, GetEmbedding"],
                "ms",
                "Embed, a hit by hash",
                times["tensors, hit"],
            ),
        ],
    )


if __name__ == "__main__":
    main()
