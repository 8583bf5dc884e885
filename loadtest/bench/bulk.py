"""What one EmbedMany stream does against a call for each image: `make bench`. Writes build/bench/many.json.

The images are known and asked for by hash: new ones wait for the encoder either way. The peer is Client.embed in as
many threads as the stream may have images in flight.
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
        for done in client.embed_many(known, in_flight=IN_FLIGHT):
            if done.error is not None:
                raise done.error
        images = known * (LOOK_UPS // KNOWN)
        works = {
            "known, stream": lambda: list(client.embed_many(images, in_flight=IN_FLIGHT)),
            "known, calls": lambda: list(pool.map(client.embed, images)),
            "tensors, GetEmbedding": lambda: client.embedding(known[0]),
            "tensors, hit": lambda: client.embed(known[0]),
        }
        times = medians(works, ROUNDS)
    calls = f"calls in {IN_FLIGHT} threads"
    report(
        "many",
        [
            Row(
                f"{LOOK_UPS} known images",
                times["known, stream"],
                "ms",
                calls,
                times["known, calls"],
                "<= 0.5",
            ),
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
