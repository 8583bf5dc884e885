"""What all commands share: the consoles, `--json`, and how they fail."""

from __future__ import annotations

import json
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from samserve.bundles.store import Store
from samserve.infra.settings import BundleSettings, load_settings

out, err = Console(), Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a machine.")]


def store() -> Store:
    """The bundles of this machine; SAMSERVE_BUNDLES names another folder for the user's own."""
    return Store(load_settings(BundleSettings).bundles)


def fail(code: int, message: str, as_json: bool = False) -> NoReturn:
    """End with the message on stderr. code: 2 for the caller's mistake, 1 for our failure."""
    if as_json:
        print(json.dumps({"error": message}))
    err.print(f"samserve: {message}", markup=False, highlight=False)
    raise typer.Exit(code)
