"""`samserve models pull`: a bundle from a published checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from samserve.cli.console import Json, Output, err
from samserve.cli.export import export_checkpoint
from samserve.cli.store import load_bundle, store
from samserve.export.catalog import GATED, PUBLISHED


def pull_model(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(PUBLISHED)}.")],
    url: Annotated[str, typer.Option(help="A mirror of the same file.")] = "",
    sha256: Annotated[
        str, typer.Option(help="The file's SHA-256, if it differs from the published one.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Download a checkpoint that Meta publishes, check it, and export it as a bundle.

    Files and bundles that exist are not downloaded again. To resume an interrupted download, run
    the same command again.
    """
    output = Output(as_json)
    if name in GATED:
        output.fail(
            2,
            f"{name} cannot be pulled: its weights are gated; ask for them at {GATED[name]}, then "
            f"run `samserve models export --checkpoint FOLDER --name {name}`",
        )
    if name not in PUBLISHED:
        output.fail(
            2,
            f"unknown model {name!r}; available: {', '.join(PUBLISHED)}; "
            "for any other checkpoint use `samserve models export`",
        )
    if name in store().paths():
        _print_existing(output, name)
        return

    checkpoint = _download(output, name, url, sha256)
    export_checkpoint(output, checkpoint, name)


def _download(output: Output, name: str, url: str, sha256: str) -> Path:
    """Download a published checkpoint with a progress bar; return its file."""
    from samserve.export.download import DownloadFailed, download

    published = PUBLISHED[name]
    file = store().folder / ".checkpoints" / published.file
    columns = (
        TextColumn(published.file),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )

    with (
        output.exit_on(failures=(DownloadFailed, OSError)),
        Progress(*columns, console=err, transient=True) as progress,
    ):
        bar = progress.add_task("", total=None)

        def show(received: int, total: int) -> None:
            progress.update(bar, completed=received, total=total or None)

        download(url or published.url, file, sha256 or published.sha256, on_progress=show)

    return file


def _print_existing(output: Output, name: str) -> None:
    bundle = load_bundle(output, name)
    if output.as_json:
        output.print_json(
            {"name": name, "model_version": bundle.model_version, "path": str(bundle.path)}
        )
    else:
        output.print_text(f"{name} already exists: {bundle.model_version}, in {bundle.path}")
