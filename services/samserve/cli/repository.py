"""`samserve models repository`: the model repository of a Triton."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from samserve.cli.console import Output
from samserve.cli.store import load_bundle


def write_models(
    model: Annotated[
        list[str], typer.Option(help="NAME, NAME:VARIANT or NAME:here; may be repeated.")
    ],
    folder: Annotated[Path, typer.Option("--out", help="Triton's --model-repository.")],
    threads: Annotated[int, typer.Option(min=1, help="Threads of one encoder on the CPU.")] = (
        os.cpu_count() or 1
    ),
    instances: Annotated[int, typer.Option(min=1, help="Instances of one engine on each GPU.")] = 1,
) -> None:
    """Write the model repository that a Triton serves."""
    from samserve.bundles.triton_repository import TritonOptions, UnprovenVariant, write_repository

    output = Output()
    bundles = [load_bundle(output, name) for name in model]
    options = TritonOptions(threads=threads, instances=instances)
    with output.exit_on(failures=(UnprovenVariant,)):
        write_repository(bundles, folder, options)
    for bundle in bundles:
        output.print_text(f"{bundle.name} {bundle.model_version} {bundle.variant.backend}")
