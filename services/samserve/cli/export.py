"""`samserve models export`: a bundle from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from samserve.bundles.files import BrokenBundle
from samserve.cli.console import Json, Output, err, out
from samserve.cli.store import load_bundle, store


def export_model(
    checkpoint: Annotated[
        Path,
        typer.Option(
            help="A file of SAM, SAM-HQ, SAM 2 or SAM 3, or a Hugging Face folder of one."
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the new bundle.")],
    as_json: Json = False,
) -> None:
    """Export a checkpoint as a bundle.

    The bundle is kept only if its outputs match PyTorch's.
    """
    export_checkpoint(Output(as_json), checkpoint, name)


def export_checkpoint(output: Output, checkpoint: Path, name: str) -> None:
    """Export a checkpoint, and print the new bundle; end the command if that fails."""
    try:
        from samserve.export.checkpoints.read import read_checkpoint
        from samserve.export.compare import ExportMismatch
        from samserve.export.convert import convert
        from samserve.export.weights import BadCheckpoint
    except ModuleNotFoundError as missing:
        output.fail(2, f"export requires {missing.name}; run pip install 'samserve[train]'")

    with output.exit_on(mistakes=(BadCheckpoint, BrokenBundle), failures=(ExportMismatch,)):
        folder = store().place_for(name)
        if folder.exists():
            output.fail(
                2, f"model {name!r} already exists in {folder}; delete it or choose another name"
            )
        with err.status("") as status:

            def report(step: str) -> None:
                status.update(step)
                err.print(step, markup=False, highlight=False)

            report(f"reading {checkpoint}")
            differences = convert(read_checkpoint(checkpoint), name, folder, report)

    _print_export(output, name, folder, differences)


def _print_export(output: Output, name: str, folder: Path, differences: dict[str, float]) -> None:
    bundle = load_bundle(output, name)
    if output.as_json:
        output.print_json(
            {
                "name": name,
                "model_version": bundle.model_version,
                "path": str(folder),
                "licence": bundle.facts["licence"],
                "differences": differences,
            }
        )
        return

    output.print_text(f"{name} is ready: {bundle.model_version}, in {folder}")
    output.print_text(f"licence of the weights: {bundle.facts['licence']}")
    table = Table("output", "largest difference from PyTorch, relative to the largest value")
    for tensor, difference in differences.items():
        table.add_row(tensor, f"{difference:.1e}")
    out.print(table)
