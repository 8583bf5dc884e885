"""Benchmark of the HTTP gateway's price: `make bench`.

The peers are the same calls over gRPC, and a FastAPI application with one route and nothing else.
Clients keep their connections. Writes build/bench/gateway.json.
"""

from __future__ import annotations

import http.client
import io
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image
from samserve.client import CachedImage, Click, Client
from samserve.core.image_id import image_id
from samserve.local.process import accepts_connections, free_port
from samserve.local.stack import StackOptions, running

from loadtest.bench.report import Row, medians, report, throughput

IMAGE = Path("examples/coins.png")
CLICK = (213.0, 193.0)  # x, y in pixels
ROUNDS = 60
UPLOADS = 7
SIDE = 1290  # of an image of noise that takes 5 MB
CALLERS = 4
JSON = {"content-type": "application/json"}


class Http:
    """A connection that is kept."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port)

    def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
        self._connection.request(method, path, body or None, headers)
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise SystemExit(f"{path} answered {answer.status}: {data[:200]!r}")
        return data


@contextmanager
def bare_application() -> Iterator[str]:
    """Run FastAPI with one route on uvicorn, as the gateway runs; yields its URL."""
    port = free_port()
    program = (
        "import fastapi, uvicorn\n"
        "app = fastapi.FastAPI()\n"
        "@app.get('/models')\n"
        "async def models() -> dict[str, list[dict[str, object]]]:\n"
        "    return {'models': [{'name': 'nano', 'version': 'nano-0123456789ab', 'default': True,\n"
        "                        'side': 1024, 'low_res': 256}]}\n"
        f"uvicorn.run(app, port={port}, loop='uvloop', http='httptools', access_log=False,\n"
        "            log_level='error')\n"
    )
    process = subprocess.Popen([sys.executable, "-P", "-c", program])
    try:
        while not accepts_connections(port):
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def requests_per_second(url: str, path: str) -> float:
    def caller() -> Callable[[], object]:
        connection = Http(url)
        return lambda: connection.send("GET", path)

    return throughput([caller() for _ in range(CALLERS)])


def new_images() -> Iterator[bytes]:
    while True:
        out = io.BytesIO()
        noise = os.urandom(3 * SIDE * SIDE)
        Image.frombytes("RGB", (SIDE, SIDE), noise).save(out, "PNG", compress_level=0)
        yield out.getvalue()


def main() -> None:
    x, y = CLICK
    photo = IMAGE.read_bytes()
    named = CachedImage(image_id(photo))
    asked = json.dumps({"prompts": [{"points": [{"x": x, "y": y}]}]}).encode()
    masks = f"/v1/images/{named.image_id}/masks"
    images = list(itertools.islice(new_images(), 2 * (UPLOADS + 1)))

    with (
        running(StackOptions()) as stack,
        bare_application() as bare,
        Client(stack.addresses.decoder, stack.addresses.embedding) as client,
    ):
        url = stack.addresses.gateway
        rest = Http(url)
        client.embed(photo)
        clicks = medians(
            {
                "grpc": lambda: client.segment(named, [Click(x, y)]),
                "rest": lambda: rest.send("POST", masks, asked, **JSON),
            },
            ROUNDS,
        )
        uploads = medians(
            {
                "grpc": lambda: client.embed(images.pop()),
                "rest": lambda: rest.send("POST", "/v1/images", images.pop()),
            },
            UPLOADS,
        )
        rates = [
            (requests_per_second(url, "/v1/models"), requests_per_second(bare, "/models"))
            for _ in range(3)
        ]

    ours, theirs = (sorted(column)[1] for column in zip(*rates, strict=True))
    size = f"{3 * SIDE * SIDE / 1e6:.0f} MB"
    report(
        "gateway",
        [
            Row("click by id over REST", clicks["rest"], "ms", "gRPC", clicks["grpc"], "<= 1.35"),
            Row(
                f"new image of {size} over REST",
                uploads["rest"],
                "ms",
                "gRPC",
                uploads["grpc"],
                "<= 1.2",
            ),
            Row("GET /v1/models", ours, "1/s", "bare FastAPI", theirs, ">= 0.7"),
        ],
    )


if __name__ == "__main__":
    main()
