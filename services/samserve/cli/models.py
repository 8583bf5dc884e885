"""`samserve models`: the group of commands for bundles; `list` and `show`."""

from __future__ import annotations

import json

import typer
from rich.table import Table

from samserve.bundles.bundle import Bundle, variant_names
from samserve.bundles.variant import EXPORTED
from samserve.cli import engine, export, pull, quantise, repository, verify
from samserve.cli.console import Command, Json, Output, out
from samserve.cli.store import load_bundle, store

app = typer.Typer(help="Model bundles.", no_args_is_help=True)


@app.command("list", cls=Command)
def list_models(as_json: Json = False) -> None:
    """List the bundles that can be served."""
    output = Output(as_json)
    bundles = [load_bundle(output, name) for name in store().paths()]

    if as_json:
        output.print_json(
            [
                {
                    "name": bundle.name,
                    "model_version": bundle.model_version,
                    "path": str(bundle.path),
                }
                for bundle in bundles
            ]
        )
    else:
        out.print(_table(bundles))


@app.command("show", cls=Command)
def show_model(name: str) -> None:
    """Show all facts of a bundle, or of one of its variants (NAME:VARIANT), as JSON."""
    bundle = load_bundle(Output(), name)
    print(json.dumps(bundle.variant.facts, indent=1))


app.command("pull", cls=Command)(pull.pull_model)
app.command("export", cls=Command)(export.export_model)
app.command("engine", cls=Command)(engine.build_engines)
app.command("quantise", cls=Command)(quantise.quantise_model)
app.command("quantize", cls=Command, hidden=True)(quantise.quantise_model)
app.command("verify", cls=Command)(verify.verify_model)
app.command("repository", cls=Command)(repository.write_models)


def _table(bundles: list[Bundle]) -> Table:
    table = Table("name", "version", "family", "frame, px", "size, MiB", "variants", "licence")
    for bundle in bundles:
        size = sum(file["bytes"] for file in bundle.facts["files"].values()) / 2**20
        table.add_row(
            bundle.name,
            bundle.model_version,
            bundle.family,
            str(bundle.frame.side),
            f"{size:.1f}",
            ", ".join([EXPORTED, *variant_names(bundle.path)]),
            bundle.facts["licence"],
        )
    return table
