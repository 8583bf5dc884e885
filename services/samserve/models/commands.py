"""`samserve models ...`: the bundles of this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from samserve.commands import Json, fail, out, store
from samserve.models.bundle import Bundle, variant_names
from samserve.models.quantise import AUTO, RECIPES
from samserve.models.store import UnknownModel
from samserve.models.variant import EXPORTED, BrokenBundle

app = typer.Typer(help="Model bundles.", no_args_is_help=True)

Images = Annotated[Path | None, typer.Option(help="A folder of pictures to judge by; without it, drawn ones.")]


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """The bundles that can be served."""
    bundles = [_load(name) for name in store().paths()]
    if as_json:
        print(json.dumps([{"name": b.name, "model_version": b.model_version, "path": str(b.path)} for b in bundles]))
        return
    table = Table("name", "version", "family", "frame, px", "size, MiB", "variants", "licence")
    for bundle in bundles:
        size = sum(file["bytes"] for file in bundle.facts["files"].values()) / 2**20
        variants = ", ".join([EXPORTED, *variant_names(bundle.path)])
        side, licence = str(bundle.frame.side), bundle.facts["licence"]
        table.add_row(bundle.name, bundle.model_version, bundle.family, side, f"{size:.1f}", variants, licence)
    out.print(table)


@app.command("show")
def show_model(name: str) -> None:
    """All facts of one bundle, or of one of its variants (NAME:VARIANT), as JSON."""
    bundle = _load(name)
    print(json.dumps(bundle.variant.facts, indent=1))


@app.command("verify")
def verify_model(
    model: Annotated[str, typer.Argument(help="NAME or NAME:VARIANT.")],
    images: Images = None,
    triton: Annotated[str, typer.Option(help="A Triton that serves it, host:port; without it, one is started.")] = "",
    as_json: Json = False,
) -> None:
    """Compare an encoder, as Triton serves it, with the exported one: embeddings and masks.

    Exit code 0: it passes the gate; 1: it is refused, or something failed; 2: there is no such model or picture.
    """
    from samserve.gate import console

    console.verify_model(model, images, triton, as_json)


@app.command("quantise")
def quantise_model(
    name: str,
    precision: Annotated[str, typer.Option(help=f"{', '.join(RECIPES)}, or {AUTO}: the fastest that passes.")] = AUTO,
    images: Images = None,
    as_json: Json = False,
) -> None:
    """Make a variant of a model's encoder for CPUs, and keep it only if it passes the gate.

    Exit codes as of `verify`.
    """
    from samserve.gate import console

    if precision not in (AUTO, *RECIPES):
        fail(2, f"there is no precision {precision!r}; there is: {', '.join([AUTO, *RECIPES])}")
    console.quantise_model(name, precision, images, as_json)


def _load(model: str) -> Bundle:
    try:
        return store().load(model)
    except UnknownModel as problem:
        fail(2, str(problem))
    except BrokenBundle as problem:
        fail(1, str(problem))
