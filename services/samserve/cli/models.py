"""`samserve models ...`: the bundles of this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from samserve.bundles.bundle import Bundle, variant_names
from samserve.bundles.store import UnknownModel
from samserve.bundles.variant import EXPORTED, BrokenBundle
from samserve.cli.console import Json, err, fail, out, store
from samserve.export.catalog import PUBLISHED
from samserve.variants.quantise import AUTO, RECIPES

app = typer.Typer(help="Model bundles.", no_args_is_help=True)

Images = Annotated[
    Path | None, typer.Option(help="A folder of pictures to judge by; without it, drawn ones.")
]


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """The bundles that can be served."""
    bundles = [_load(name) for name in store().paths()]
    if as_json:
        print(
            json.dumps(
                [
                    {"name": b.name, "model_version": b.model_version, "path": str(b.path)}
                    for b in bundles
                ]
            )
        )
        return
    table = Table("name", "version", "family", "frame, px", "size, MiB", "variants", "licence")
    for bundle in bundles:
        size = sum(file["bytes"] for file in bundle.facts["files"].values()) / 2**20
        variants = ", ".join([EXPORTED, *variant_names(bundle.path)])
        side, licence = str(bundle.frame.side), bundle.facts["licence"]
        table.add_row(
            bundle.name, bundle.model_version, bundle.family, side, f"{size:.1f}", variants, licence
        )
    out.print(table)


@app.command("show")
def show_model(name: str) -> None:
    """All facts of one bundle, or of one of its variants (NAME:VARIANT), as JSON."""
    bundle = _load(name)
    print(json.dumps(bundle.variant.facts, indent=1))


@app.command("engine")
def build_engines(
    name: str,
    target: Annotated[
        list[str], typer.Option(help="sm89, 8.9, L4, or here: this machine's GPU; give several.")
    ],
    precision: Annotated[
        Literal["fp16", "bf16"], typer.Option(help="Of the products; the rest is fp32.")
    ] = "fp16",
    batch: Annotated[
        str, typer.Option(help="Least, optimum and most images in a batch.")
    ] = "1,4,8",
    images: Images = None,
    as_json: Json = False,
) -> None:
    """Compile a model's encoder with TensorRT, for each target; what is there already is not compiled again.

    The engines are kept in the model's folder. One for this machine's own GPU is then put through the gate, and is
    served as NAME:here once it has passed. Without a GPU, TensorRT-RTX checks that they compile.

    Exit code 0: all are there, and this GPU's has passed; 1: it is refused, or something failed; 2: a wrong argument.
    """
    try:
        from samserve.bundles.gpu import UnknownGpu, gpu_here, parse_gpu
        from samserve.variants.compiler import EngineRefused, NoCompiler, find_compiler
        from samserve.variants.engine import EngineSpec, Profile, build
    except ModuleNotFoundError as problem:
        fail(1, f"{problem.name} is not installed: pip install 'samserve[engine-check]'", as_json)
    bundle = _own(name)
    try:
        profile = Profile.parse(batch)
        recipes = [EngineSpec(parse_gpu(one), precision, profile) for one in target]
        compiler = find_compiler()
        with err.status("") as status:
            engines = [build(bundle, recipe, compiler, status.update) for recipe in recipes]
    except (UnknownGpu, ValueError) as problem:
        fail(1 if isinstance(problem, EngineRefused) else 2, str(problem), as_json)
    except (NoCompiler, OSError) as problem:
        fail(1, str(problem), as_json)
    gpu = gpu_here()
    mine = [
        one
        for one in engines
        if compiler.serves and gpu is not None and one.facts["target"] == gpu.slug
    ]
    if mine:
        from samserve.cli import variants
    kept = {one.file: variants.publish_engine(bundle, one, images) for one in mine}
    if as_json:
        answers = [
            {"file": str(one.file), "built": one.built, "variant": kept.get(one.file)}
            for one in engines
        ]
        print(
            json.dumps(
                [{**answer, **one.facts} for answer, one in zip(answers, engines, strict=True)]
            )
        )
        return
    table = Table("target", "size, MiB", "activations, MiB", "seconds", "")
    for engine in engines:
        facts = engine.facts
        sizes = [f"{facts[key] / 2**20:,.0f}" for key in ("bytes", "activation_bytes")]
        table.add_row(
            facts["target"],
            *sizes,
            str(facts["seconds"]),
            "built" if engine.built else "there already",
        )
    out.print(table)
    what = "engines" if compiler.serves else "checks, which Triton does not run,"
    out.print(
        f"{what} of {bundle.name} in {precision}, for batches of {batch}, by {compiler.kind} {compiler.version}"
    )
    out.print(f"in {engines[0].file.parent}", highlight=False, soft_wrap=True)


@app.command("export")
def export_model(
    checkpoint: Annotated[
        Path, typer.Option(help="SAM's, SAM-HQ's or SAM 2's file, or a folder of transformers.")
    ],
    name: Annotated[str, typer.Option(help="What the bundle will be called.")],
    as_json: Json = False,
) -> None:
    """Make a bundle of a checkpoint: export it, and compare what comes out with PyTorch before it is kept."""
    try:
        from samserve.export.checkpoints.checkpoint import BadCheckpoint
        from samserve.export.checkpoints.read import read_checkpoint
        from samserve.export.compare import ExportMismatch
        from samserve.export.convert import convert
    except ModuleNotFoundError as missing:
        fail(2, f"exporting needs {missing.name}: pip install 'samserve[train]'", as_json)
    try:
        place = store().place_for(name)
        if place.exists():
            fail(
                2,
                f"there is a model {name!r} already, in {place}: delete that folder, or take another name",
                as_json,
            )
        with err.status("") as status:

            def say(doing: str) -> None:
                status.update(doing)
                err.print(doing, markup=False, highlight=False)

            say(f"reading {checkpoint}")
            largest = convert(read_checkpoint(checkpoint), name, place, say)
    except (BadCheckpoint, BrokenBundle) as problem:
        fail(2, str(problem), as_json)
    except ExportMismatch as problem:
        fail(1, str(problem), as_json)
    bundle = _load(name)
    if as_json:
        facts = {
            "name": name,
            "model_version": bundle.model_version,
            "path": str(place),
            "differences": largest,
        }
        print(json.dumps(facts))
        return
    out.print(
        f"{name} is ready: {bundle.model_version}, in {place}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    table = Table("output", "largest difference from PyTorch, share of the largest value")
    for output, difference in largest.items():
        table.add_row(output, f"{difference:.1e}")
    out.print(table)


@app.command("verify")
def verify_model(
    model: Annotated[str, typer.Argument(help="NAME or NAME:VARIANT.")],
    images: Images = None,
    triton: Annotated[
        str, typer.Option(help="A Triton that serves it, host:port; without it, one is started.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Compare an encoder, as Triton serves it, with the exported one: embeddings and masks.

    Exit code 0: it passes the gate; 1: it is refused, or something failed; 2: there is no such model or picture.
    """
    from samserve.cli import variants

    variants.verify_model(model, images, triton, as_json)


@app.command("quantise")
def quantise_model(
    name: str,
    precision: Annotated[
        str, typer.Option(help=f"{', '.join(RECIPES)}, or {AUTO}: the fastest that passes.")
    ] = AUTO,
    images: Images = None,
    as_json: Json = False,
) -> None:
    """Make a variant of a model's encoder for CPUs, and keep it only if it passes the gate.

    Exit codes as of `verify`.
    """
    from samserve.cli import variants

    if precision not in (AUTO, *RECIPES):
        fail(2, f"there is no precision {precision!r}; there is: {', '.join([AUTO, *RECIPES])}")
    variants.quantise_model(name, precision, images, as_json)


@app.command("repository")
def write_models(
    model: Annotated[
        list[str], typer.Option(help="NAME, NAME:VARIANT or NAME:here; give several.")
    ],
    folder: Annotated[Path, typer.Option("--out", help="Triton's --model-repository.")],
    threads: Annotated[int, typer.Option(min=1, help="Of one encoder on the CPU.")] = os.cpu_count()
    or 1,
    instances: Annotated[int, typer.Option(min=1, help="Of one engine, on each GPU.")] = 1,
) -> None:
    """Write the model repository that a Triton serves from."""
    from samserve.bundles.triton_repository import TritonOptions, UnprovenVariant, write_repository

    bundles = [_load(one) for one in model]
    try:
        write_repository(bundles, folder, TritonOptions(threads=threads, instances=instances))
    except UnprovenVariant as problem:
        fail(1, str(problem))
    for bundle in bundles:
        out.print(
            f"{bundle.name} {bundle.model_version} {bundle.variant.backend}",
            markup=False,
            highlight=False,
        )


@app.command("pull")
def pull_model(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(PUBLISHED)}.")],
    url: Annotated[str, typer.Option(help="A mirror of the same file.")] = "",
    sha256: Annotated[
        str, typer.Option(help="The file's sum, if it is not the published one.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Download a published checkpoint from Meta, check it, and make a bundle of it; what is there is not fetched again.

    A download that is cut off goes on where it was when the command is given again.
    """
    from samserve.export.download import DownloadFailed, download

    if name not in PUBLISHED:
        fail(
            2,
            f"{name!r} is not published: there is {', '.join(PUBLISHED)}; export any other from its file",
            as_json,
        )
    if name in store().paths():
        _tell_of(name, as_json)
        return
    one = PUBLISHED[name]
    file = store().folder / ".checkpoints" / one.file
    columns = (
        TextColumn(one.file),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=err, transient=True) as progress:
            bar = progress.add_task("", total=None)

            def show(there: int, total: int) -> None:
                progress.update(bar, completed=there, total=total or None)

            download(url or one.url, file, sha256 or one.sha256, show)
    except (DownloadFailed, OSError) as problem:
        fail(1, str(problem), as_json)
    export_model(file, name, as_json)


def _tell_of(name: str, as_json: bool) -> None:
    bundle = _load(name)
    if as_json:
        print(
            json.dumps(
                {"name": name, "model_version": bundle.model_version, "path": str(bundle.path)}
            )
        )
    else:
        out.print(
            f"{name} is there: {bundle.model_version}, in {bundle.path}",
            markup=False,
            highlight=False,
        )


def _load(model: str) -> Bundle:
    return _found(store().load, model)


def _own(name: str) -> Bundle:
    return _found(store().own, name)


def _found(find: Callable[[str], Bundle], model: str) -> Bundle:
    try:
        return find(model)
    except UnknownModel as problem:
        fail(2, str(problem))
    except (BrokenBundle, OSError) as problem:
        fail(1, str(problem))
