"""A real Envoy in front of services that only count."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from edge.fakes_behind import Decoder, Gateway
from samserve.local.probes import edge_ready
from samserve.local.process import Program, free_port

START_SECONDS = 120.0


@dataclass(frozen=True)
class Edge:
    """A running edge; addresses are `host:port`."""

    address: str
    metrics: str
    log: Path
    program: Program


Start = Callable[..., Edge]


@contextmanager
def starting(folder: Path) -> Iterator[Start]:
    """Starts edges, with settings by their variables; ends them with the block."""
    programs: list[Program] = []

    def start(**settings: object) -> Edge:
        port, metrics = free_port(), free_port()
        own = folder / f"edge-{len(programs)}"
        own.mkdir()
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("SAMSERVE_")},
            "SAMSERVE_EDGE_PORT": str(port),
            "SAMSERVE_METRICS_PORT": str(metrics),
            "SAMSERVE_EDGE_RUN_FOLDER": str(own),
            **{name: str(value) for name, value in settings.items()},
        }
        command = [sys.executable, "-P", "-m", "samserve.edge"]
        program = Program("edge", command, environment, own / "log")
        programs.append(program)
        program.wait_ready(lambda: edge_ready(f"127.0.0.1:{metrics}"), START_SECONDS)
        return Edge(f"127.0.0.1:{port}", f"127.0.0.1:{metrics}", own / "log", program)

    try:
        yield start
    finally:
        for program in programs:
            program.stop()


@pytest.fixture(scope="session")
def decoders() -> Iterator[list[Decoder]]:
    made = [Decoder() for _ in range(4)]
    yield made
    for each in made:
        each.close()


@pytest.fixture(scope="session")
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    gateway.start()
    yield gateway
    gateway.close()


@pytest.fixture(scope="session")
def start(
    tmp_path_factory: pytest.TempPathFactory, decoders: list[Decoder], gateway: Gateway
) -> Iterator[Start]:
    """Starts an edge before all decoders and the gateway, unless told otherwise."""
    behind = {
        "DECODER_URL": ",".join(each.address for each in decoders),
        "GATEWAY_URL": f"127.0.0.1:{gateway.port}",
        "EMBEDDING_URL": decoders[0].address,
    }
    with starting(tmp_path_factory.mktemp("edges")) as one:
        yield lambda **settings: one(**{**behind, **settings})


@pytest.fixture(scope="session")
def edge(start: Start) -> Edge:
    """One that many tests share."""
    return start(SAMSERVE_EDGE_HEAD_S=2, SAMSERVE_EDGE_HEDGE_S=0.3)
