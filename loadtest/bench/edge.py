"""The edge's price: `python -m loadtest.bench.edge`.

A click by reference through the edge, with and without TLS, beside the same click on the decoder's
own port, and beside the same over REST; in turn, in one run. Writes build/bench/edge.json.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path

import grpc
from samserve.client import CachedImage, Click, Client
from samserve.core.image_id import image_id
from samserve.local.certificates import CA, CERTIFICATE, KEY, write_certificates
from samserve.local.process import free_port
from samserve.local.stack import Stack, StackOptions, running

from loadtest.bench.gateway import Http
from loadtest.bench.report import Row, Work, medians, report, throughput

IMAGE = Path("examples/coins.png")
CLICK = (213.0, 193.0)  # x, y in pixels
ROUNDS = 200
CALLERS = 2
JSON = {"content-type": "application/json"}


def start_tls(stack: Stack, folder: Path) -> str:
    """Start a second edge, with TLS; return its address."""
    write_certificates(folder)
    port = free_port()
    settings = {
        "SAMSERVE_EDGE_PORT": port,
        "SAMSERVE_METRICS_PORT": free_port(),
        "SAMSERVE_EDGE_CERT_FILE": folder / CERTIFICATE,
        "SAMSERVE_EDGE_KEY_FILE": folder / KEY,
    }
    stack.start_edge("edge-tls", settings)
    return f"127.0.0.1:{port}"


def main() -> None:
    photo = IMAGE.read_bytes()
    named = CachedImage(image_id(photo))
    x, y = CLICK
    asked = json.dumps({"prompts": [{"points": [{"x": x, "y": y}]}]}).encode()
    masks = f"/v1/images/{named.image_id}/masks"

    with ExitStack() as stack_of, tempfile.TemporaryDirectory() as folder:
        stack = stack_of.enter_context(running(StackOptions()))
        addresses = stack.addresses
        secure = start_tls(stack, Path(folder))
        plain = addresses.edge.removeprefix("http://")
        trusted = grpc.ssl_channel_credentials((Path(folder) / CA).read_bytes())

        def click(target: str, credentials: grpc.ChannelCredentials | None = None) -> Work:
            client = stack_of.enter_context(Client(target, target, credentials=credentials))
            return lambda: client.segment(named, [Click(x, y)])

        with Client(addresses.decoder, addresses.embedding) as client:
            client.embed(photo)
        over_http = {"rest": Http(addresses.gateway), "rest through the edge": Http(addresses.edge)}
        works: dict[str, Work] = {
            "direct": click(addresses.decoder),
            "edge": click(plain),
            "tls": click(secure, trusted),
            **{
                name: lambda http=http: http.send("POST", masks, asked, **JSON)  # type: ignore[misc]
                for name, http in over_http.items()
            },
        }
        took = medians(works, ROUNDS)
        rates = {name: throughput([works[name]] * CALLERS) for name in ("direct", "edge", "tls")}

    report(
        "edge",
        [
            Row("click through the edge", took["edge"], "ms", "direct", took["direct"], "<= 1.10"),
            Row("the same with TLS", took["tls"], "ms", "direct", took["direct"], "<= 1.15"),
            Row(
                "REST click through the edge",
                took["rest through the edge"],
                "ms",
                "direct",
                took["rest"],
                "<= 1.15",
            ),
            Row("clicks of two callers", rates["edge"], "1/s", "direct", rates["direct"]),
            Row("the same with TLS", rates["tls"], "1/s", "direct", rates["direct"]),
        ],
    )


if __name__ == "__main__":
    main()
