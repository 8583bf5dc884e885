"""The command line: `samserve ...`."""

from __future__ import annotations

import sys
from importlib.util import find_spec

NOT_INSTALLED = """\
samserve: the command line is not installed here; install it with: pip install 'samserve[cli]'
Services have their own commands: python -m samserve.decoder.server (the decoder) and
python -m samserve.embedding.main (the embedding service). --help lists their variables."""


def start() -> None:
    """Run the command line, or say what to install: images of the services do not contain it."""
    if find_spec("typer") is None:
        sys.exit(NOT_INSTALLED)

    from samserve.cli.main import main

    main()
