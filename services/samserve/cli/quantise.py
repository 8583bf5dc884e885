"""`samserve models quantise`: variants of an encoder for CPUs."""

from __future__ import annotations

from typing import Annotated

import typer

from samserve.cli.console import Json, Output
from samserve.cli.verify import GateImages
from samserve.variants.quantise import AUTO, RECIPES


def quantise_model(
    name: str,
    precision: Annotated[
        str,
        typer.Option(help=f"{', '.join(RECIPES)}, or {AUTO}: the fastest that passes the gate."),
    ] = AUTO,
    images: GateImages = None,
    as_json: Json = False,
) -> None:
    """Make a variant of a model's encoder for CPUs; keep it only if it passes the gate.

    Exit code 0: a variant is kept; 1: it was refused, or something failed; 2: unknown model,
    precision or image.
    """
    from samserve.cli import variants

    output = Output(as_json)
    if precision not in (AUTO, *RECIPES):
        available = ", ".join([AUTO, *RECIPES])
        output.fail(2, f"unknown precision {precision!r}; available: {available}")
    variants.quantise(output, name, precision, images=images)
