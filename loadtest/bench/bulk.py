"""Benchmark of one EmbedMany stream against one call per image: `make bench`.

The images are known and sent by hash, because new ones wait for the encoder either way. The peer is
Client.embed in as many threads as the stream has images in flight. Writes build/bench/many.json.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image
from samserve.client import Client
from samserve.local.stack import StackOptions, running

from loadtest.bench.report import Row, medians, report

IN_FLIGHT = 16
KNOWN, LOOK_UPS, ROUNDS = 80, 800, 5


def random_images(count: int, rng: np.random.Generator) -> list[bytes]:
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
        known = random_images(KNOWN, rng)
        for result in client.embed_many(known, in_flight=IN_FLIGHT):
            if result.error is not None:
                raise result.error

        images = known * (LOOK_UPS // KNOWN)
        works = {
            "stream": lambda: list(client.embed_many(images, in_flight=IN_FLIGHT)),
            "calls": lambda: list(pool.map(client.embed, images)),
            "tensors": lambda: client.embedding(known[0]),
            "hit": lambda: client.embed(known[0]),
        }
        times = medians(works, ROUNDS)

    calls = f"calls in {IN_FLIGHT} threads"
    stream, tensors, hit = times["stream"], times["tensors"], times["hit"]
    report(
        "many",
        [
            Row(f"{LOOK_UPS} known images", stream, "ms", calls, times["calls"], "<= 0.5"),
            Row("GetEmbedding, 2 MiB", tensors, "ms", "Embed, a hit by hash", hit),
        ],
    )


if __name__ == "__main__":
    main()
