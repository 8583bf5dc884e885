"""`samserve models verify`: the gate on an encoder that Triton serves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samserve.cli.console import Json, Output

GateImages = Annotated[
    Path | None,
    typer.Option("--images", help="A folder of images to compare with; default: drawn images."),
]


def verify_model(
    model: Annotated[str, typer.Argument(help="NAME or NAME:VARIANT.")],
    images: GateImages = None,
    triton: Annotated[
        str, typer.Option(help="A Triton that serves the model, host:port; default: start one.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Compare an encoder, as Triton serves it, with the exported one: embeddings and masks.

    Exit code 0: it passed the gate; 1: it was refused, or something failed; 2: unknown model or
    image.
    """
    from samserve.cli import variants

    variants.verify_variant(Output(as_json), model, images=images, triton=triton)
