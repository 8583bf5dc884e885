"""`samserve models engine`: encoders compiled by TensorRT."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from samserve.bundles.bundle import Bundle
from samserve.cli.console import Json, Output, err, out
from samserve.cli.store import own_bundle
from samserve.cli.verify import GateImages

if TYPE_CHECKING:
    from samserve.variants.compiler import Compiler
    from samserve.variants.concept_engine import HeadCheck
    from samserve.variants.engine import Engine


def build_engines(
    name: str,
    target: Annotated[
        list[str],
        typer.Option(help="sm89, 8.9, L4, or here for this machine's GPU; may be repeated."),
    ],
    precision: Annotated[
        Literal["fp16", "bf16"],
        typer.Option(help="Precision of matrix products; everything else is fp32."),
    ] = "fp16",
    batch: Annotated[str, typer.Option(help="Images in a batch: MIN,OPT,MAX.")] = "1,4,8",
    images: GateImages = None,
    as_json: Json = False,
) -> None:
    """Compile a model's encoder with TensorRT for each target. Existing engines are kept.

    Engines are stored in the model's folder. An engine for this machine's GPU must pass the gate,
    and is then served as NAME:here. Without a GPU, TensorRT-RTX checks that the encoder compiles.

    Exit code 0: all engines exist, and the one for this GPU passed; 1: refused or failed; 2:
    invalid argument.
    """
    output = Output(as_json)
    try:
        from samserve.bundles.gpu import UnknownGpu, parse_gpu
        from samserve.variants.compiler import EngineRefused, NoCompiler, find_compiler
        from samserve.variants.concept_engine import check_head
        from samserve.variants.engine import EngineSpec, Profile, build
    except ModuleNotFoundError as missing:
        output.fail(1, f"{missing.name} is not installed; run pip install 'samserve[engine-check]'")

    bundle = own_bundle(output, name)
    with (
        output.exit_on(mistakes=(UnknownGpu, ValueError), failures=(NoCompiler, OSError)),
        output.exit_on(failures=(EngineRefused,)),  # a ValueError, but not the caller's mistake
        err.status("") as status,
    ):
        profile = Profile.parse(batch)
        specs = [EngineSpec(parse_gpu(text), precision, profile) for text in target]
        compiler = find_compiler()
        engines = [build(bundle, spec, compiler, status.update) for spec in specs]
        heads = [
            check
            for spec in specs
            if bundle.concepts is not None
            for check in check_head(
                bundle, bundle.concepts, spec.target, precision, compiler, status.update
            )
        ]

    published = _publish_here(output, bundle, engines, compiler, images)
    if as_json:
        output.print_json(
            [
                {
                    "file": str(engine.file),
                    "built": engine.built,
                    "variant": published.get(engine.file),
                    **engine.facts,
                }
                for engine in engines
            ]
            + [asdict(check) for check in heads]
        )
        return

    out.print(_table(engines, heads))
    kind = "engines" if compiler.serves else "checks (Triton cannot serve them)"
    out.print(
        f"{kind} of {bundle.name} in {precision}, for batches of {batch}, "
        f"by {compiler.kind} {compiler.version}"
    )
    out.print(f"in {engines[0].file.parent}", highlight=False, soft_wrap=True)
    if heads:
        out.print("concepts.onnx and text.onnx: a check only, never served; norms, softmax in fp32")


def _publish_here(
    output: Output, bundle: Bundle, engines: list[Engine], compiler: Compiler, images: Path | None
) -> dict[Path, str]:
    """Publish the engines for this machine's GPU; return their variants' names by file."""
    from samserve.bundles.gpu import gpu_here

    gpu = gpu_here()
    if gpu is None or not compiler.serves:
        return {}
    own = [engine for engine in engines if engine.facts["target"] == gpu.slug]
    if not own:
        return {}
    from samserve.cli import variants  # needs the decoder and Triton's client

    return {
        engine.file: variants.publish_engine(output, bundle, engine, images=images)
        for engine in own
    }


def _table(engines: list[Engine], heads: list[HeadCheck]) -> Table:
    table = Table("target", "size, MiB", "activations, MiB", "seconds", "")
    for engine in engines:
        facts = engine.facts
        table.add_row(
            facts["target"],
            f"{facts['bytes'] / 2**20:,.0f}",
            f"{facts['activation_bytes'] / 2**20:,.0f}",
            str(facts["seconds"]),
            "built" if engine.built else "already built",
        )
    for check in heads:
        table.add_row(
            f"{check.target}, {check.graph}",
            f"{check.size / 2**20:,.0f}",
            f"{check.activations / 2**20:,.0f}",
            str(check.seconds),
            "checked",
        )
    return table
