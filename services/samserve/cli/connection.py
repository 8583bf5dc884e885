"""The client of a command: connected to the stack that the environment or this machine names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import grpc
import typer
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from samserve.cli.console import CALLER_ERRORS, Output, err
from samserve.client import Client
from samserve.core.errors import SamserveError

if TYPE_CHECKING:
    from samserve.local.state import Addresses

STDIN = Path("-")

Model = Annotated[str, typer.Option(help="A model's name; empty for the stack's default.")]
Timeout = Annotated[
    float,
    typer.Option(
        min=0.001,
        help="Seconds to wait for an image, with all attempts. A new image is encoded first, which "
        "goes on after the timeout: run the same command again.",
    ),
]


@contextmanager
def connect(output: Output, model: str, timeout: float) -> Iterator[Client]:
    """A client of the running stack. Errors of the services end the command."""
    from samserve.local import state

    running = state.load_state()
    credentials: grpc.ChannelCredentials | None = None
    if running is not None and running.identity:  # the services answer the edge alone
        running, credentials = _through_the_edge(running)
    decoder = os.environ.get("DECODER_URL") or (running.decoder if running else None)
    embedding = os.environ.get("EMBEDDING_URL") or (running.embedding if running else None)

    if decoder is None and embedding is None:
        output.fail(
            1,
            "no stack runs on this machine; start one with `samserve up`, "
            "or set DECODER_URL and EMBEDDING_URL",
        )

    with (
        output.exit_on(mistakes=CALLER_ERRORS, failures=(SamserveError,)),
        Client(
            decoder,
            embedding,
            model=model,
            timeout=timeout,
            credentials=credentials,
            metadata=_key(),
        ) as client,
    ):
        yield client


def _through_the_edge(running: Addresses) -> tuple[Addresses, grpc.ChannelCredentials | None]:
    """Return the addresses with the edge's in place of the services', and its CA."""
    edge = urlsplit(running.edge).netloc
    credentials = None
    if running.edge_ca:
        credentials = grpc.ssl_channel_credentials(Path(running.edge_ca).read_bytes())
    return replace(running, decoder=edge, embedding=edge), credentials


def _key() -> tuple[tuple[str, str], ...]:
    """Return metadata with the caller's API key, if the environment has one."""
    key = os.environ.get("SAMSERVE_API_KEY", "")
    return (("authorization", f"Bearer {key}"),) if key else ()


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show that an answer is awaited, and for how long, if stderr is a terminal."""
    columns = (SpinnerColumn(), TextColumn(escape(text)), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        progress.add_task("", total=None)
        yield


def existing_file(path: Path) -> Path:
    """Return the path. Raises FileNotFoundError if it is not a file."""
    if not path.is_file():
        raise FileNotFoundError(f"file not found: {path}")
    return path
