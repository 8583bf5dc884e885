"""The command line: `samserve ...`.

Exit codes: 0 done, 1 our failure, 2 the caller's mistake. Errors go to stderr, `--json` prints for machines.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from samserve.bundles.names import parse_models
from samserve.bundles.triton_repository import check_passed
from samserve.cli.console import Json, err, fail, out, store
from samserve.cli.embed_summary import CALLERS_MISTAKES, EmbedSummary, line_of
from samserve.cli.models import app as models_app
from samserve.client import Box, Click, Client
from samserve.codec.tensors import Coding
from samserve.core.errors import SamserveError

app = typer.Typer(
    help="Serve the Segment Anything family: click on a photo, get the object.",
    no_args_is_help=True,
)
app.add_typer(models_app, name="models")

Model = Annotated[str, typer.Option(help="A model's name; empty: the stack's default.")]
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"}


@app.command()
def up(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model to serve, NAME or NAME:VARIANT; the first given is the default."
        ),
    ] = None,
    embedding_port: Annotated[
        int, typer.Option(help="Port of the embedding service; 0: any free one.")
    ] = 8500,
    decoder_port: Annotated[int, typer.Option(help="Port of the decoder; 0: any free one.")] = 8501,
    replicas: Annotated[int, typer.Option(min=1, help="Replicas of the embedding service.")] = 1,
    cache_coding: Annotated[
        Coding,
        typer.Option(
            envvar="SAMSERVE_CACHE_CODING", help="Embeddings in Redis: lossy and small, or exact."
        ),
    ] = "small",
    redis_url: Annotated[
        str, typer.Option(envvar="REDIS_URL", help="A Redis that runs already.")
    ] = "",
    triton_url: Annotated[
        str, typer.Option(envvar="TRITON_URL", help="A Triton that runs already, host:port.")
    ] = "",
) -> None:
    """Run the whole stack on this machine until Ctrl-C: Triton, Redis, Ray Serve, decoder."""
    from samserve.local import stack, state
    from samserve.local.process import StartFailed

    models = _servable(model or ["nano"])
    if state.load_state() is not None:
        fail(2, "a stack runs already: see `samserve status`")
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    options = stack.StackOptions(
        models=models,
        bundles=store().folder,
        cache_coding=cache_coding,
        embedding_port=embedding_port,
        decoder_port=decoder_port,
        replicas=replicas,
        redis_url=redis_url,
        triton_url=triton_url,
    )
    try:
        with stack.running(options, lambda part: err.print(f"starting {part}")) as running:
            state.save_state(running.addresses)
            for name, address in running.addresses.shown().items():
                err.print(f"[green]ready[/]  {name:<10} {address}", highlight=False)
            err.print("Ctrl-C stops it all", highlight=False)
            try:
                while not stopping.wait(0.5):
                    if (failure := running.failure()) is not None:
                        fail(1, failure)
            finally:
                state.delete_state()
    except StartFailed as problem:
        fail(1, str(problem))


@app.command()
def status(
    wait: Annotated[float, typer.Option(help="Seconds to wait for it to be ready.")] = 0,
    as_json: Json = False,
) -> None:
    """Whether the stack of this machine is ready, and where its parts are."""
    from samserve.local import probes, state

    deadline = time.monotonic() + wait
    while True:
        addresses = state.load_state()
        ready = probes.readiness(addresses) if addresses else {}
        if (ready and all(ready.values())) or time.monotonic() >= deadline:
            break
        time.sleep(0.2)
    if addresses is None:
        fail(1, "no stack runs on this machine: start one with `samserve up`", as_json)
    if as_json:
        told = {"ready": all(ready.values()), "models": addresses.models, "parts": ready}
        print(json.dumps({**told, "addresses": addresses.shown()}))
    else:
        out.print(f"{'models':<16} {', '.join(addresses.models)}", highlight=False)
        for name, address in addresses.shown().items():
            label = {True: "[green]ready[/]", False: "[red]not ready[/]", None: ""}[ready.get(name)]
            out.print(f"{name:<16} {address:<32} {label}", highlight=False)
    raise typer.Exit(0 if all(ready.values()) else 1)


@app.command()
def segment(
    image: Path,
    point: Annotated[
        list[str] | None, typer.Option(help="X,Y or X,Y,1 on the object; X,Y,0 beside it.")
    ] = None,
    box: Annotated[str, typer.Option(help="X0,Y0,X1,Y1 around the object.")] = "",
    multimask: Annotated[
        bool, typer.Option(help="Three candidates, or one mask for a clear prompt.")
    ] = True,
    overlay_file: Annotated[
        Path | None, typer.Option("--out", help="Write a PNG of the photo with the mask.")
    ] = None,
    model: Model = "",
    as_json: Json = False,
) -> None:
    """Segment the object that the points and the box mean; coordinates are pixels of the upright image."""
    clicks = [_click(text) for text in point or []]
    frame = _box(box) if box else None
    with _client(model) as client:
        answer = client.segment(_readable(image), clicks, frame, multimask=multimask)
    if overlay_file is not None:
        from samserve.local.overlay import overlay

        overlay(image, answer.masks[0].array(), clicks, frame, overlay_file)
    if as_json:
        print(json.dumps(answer.as_json()))
        return
    table = Table(
        "mask",
        "predicted IoU",
        "stability",
        "area, px",
        "box",
        title=f"{image.name}: {answer.cache}",
    )
    for rank, mask in enumerate(answer.masks, 1):
        scores = (f"{mask.predicted_iou:.3f}", f"{mask.stability_score:.3f}")
        table.add_row(str(rank), *scores, f"{mask.area:,}", " ".join(map(str, mask.bbox)))
    out.print(table)


@app.command()
def embed(
    paths: list[Path],
    in_flight: Annotated[
        int, typer.Option(min=1, help="Images in memory, or on their way, at once.")
    ] = 16,
    model: Model = "",
    as_json: Json = False,
) -> None:
    """Warm the cache for image files, and for all images in folders and the folders in them.

    Known images cost a look-up by hash, so a run that was cut short goes on when it is started again. With --json, a
    line for each image as it is done, and a last one with the counts.

    Exit code 0: all is embedded; 2: there is no such file or no image, or some are damaged, unreadable or too large;
    1: some failed for a reason of ours, and may be tried again; 130: interrupted.
    """
    files = [file for path in paths for file in _images(path)]
    if not files:
        fail(2, "there is no image in " + ", ".join(map(str, paths)), as_json)
    tally = EmbedSummary()
    columns = (
        TextColumn("embedding"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
    )
    with _client(model) as client:
        try:
            with Progress(*columns, console=err, transient=True) as progress:
                bar = progress.add_task("", total=len(files))
                for done in client.embed_many(files, in_flight):
                    tally.add(done)
                    progress.advance(bar)
                    if as_json:
                        print(json.dumps(line_of(done)), flush=True)
        except KeyboardInterrupt:
            _report(tally, as_json)
            fail(
                130,
                f"interrupted, {len(files) - tally.total} images left: the same command goes on from here",
            )
        except SamserveError as problem:
            _report(tally, as_json)
            code = 2 if isinstance(problem, CALLERS_MISTAKES) else 1
            fail(
                code,
                f"{problem}; {len(files) - tally.total} images left: the same command goes on from here",
            )
    _report(tally, as_json)
    raise typer.Exit(tally.exit_code)


def _servable(models: list[str]) -> tuple[str, ...]:
    """The models, if all of them can be served together."""
    try:
        every = parse_models(",".join(models))
        for bundle in store().load_all(every):
            check_passed(bundle)
    except ValueError as problem:
        fail(2, str(problem))
    return every


@contextmanager
def _client(model: str) -> Iterator[Client]:
    """A client of the stack that the environment names, or of the one that runs here."""

    from samserve.local import state

    here = state.load_state()
    decoder = os.environ.get("DECODER_URL") or (here.decoder if here else None)
    embedding = os.environ.get("EMBEDDING_URL") or (here.embedding if here else None)
    if decoder is None and embedding is None:
        fail(
            1,
            "no stack runs on this machine: start one with `samserve up`, or set DECODER_URL and EMBEDDING_URL",
        )
    try:
        with Client(decoder, embedding, model) as client:
            yield client
    except CALLERS_MISTAKES as problem:
        fail(2, str(problem))
    except SamserveError as problem:
        fail(1, str(problem))


class Rate(ProgressColumn):
    """Images per second, of late."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f} images/s")


def _report(tally: EmbedSummary, as_json: bool) -> None:
    if as_json:
        print(json.dumps(tally.as_json()))
        return
    first, *reasons = tally.summary()
    out.print(first, markup=False, highlight=False)
    for reason in reasons:
        err.print(reason, markup=False, highlight=False)


def _numbers(text: str, counts: tuple[int, ...], wanted: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in counts:
        fail(2, f"{text!r} is not {wanted}")
    return numbers


def _click(text: str) -> Click:
    x, y, *on = _numbers(text, (2, 3), "a point: give X,Y or X,Y,1 or X,Y,0")
    return Click(x, y, on != [0])


def _box(text: str) -> Box:
    return Box(*_numbers(text, (4,), "a box: give X0,Y0,X1,Y1"))


def _readable(image: Path) -> Path:
    if not image.is_file():
        fail(2, f"there is no file {image}")
    return image


def _images(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    return [_readable(path)]


def main() -> None:
    app()


if __name__ == "__main__":
    main()
