"""`samserve models ...`: the bundles of this machine."""

from __future__ import annotations

import json

import typer
from rich.table import Table

from samserve.commands import Json, fail, out, store
from samserve.models.bundle import Bundle, variant_names
from samserve.models.store import UnknownModel
from samserve.models.variant import EXPORTED, BrokenBundle

app = typer.Typer(help="Model bundles.", no_args_is_help=True)


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


def _load(model: str) -> Bundle:
    try:
        return store().load(model)
    except UnknownModel as problem:
        fail(2, str(problem))
    except BrokenBundle as problem:
        fail(1, str(problem))
