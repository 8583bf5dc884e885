"""The client of a command: connected to the stack that the environment or this machine names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from samserve.cli.console import CALLER_ERRORS, Output
from samserve.client import Client
from samserve.core.errors import SamserveError

Model = Annotated[str, typer.Option(help="A model's name; empty for the stack's default.")]


@contextmanager
def connect(output: Output, model: str) -> Iterator[Client]:
    """A client of the running stack. Errors of the services end the command."""
    from samserve.local import state

    running = state.load_state()
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
        Client(decoder, embedding, model=model) as client,
    ):
        yield client


def existing_file(path: Path) -> Path:
    """Return the path. Raises FileNotFoundError if it is not a file."""
    if not path.is_file():
        raise FileNotFoundError(f"file not found: {path}")
    return path
