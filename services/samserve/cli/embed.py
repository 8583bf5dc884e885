"""`samserve embed`: warms the cache for many images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

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
from rich.text import Text

from samserve.cli.connection import Model, Timeout, connect, existing_file
from samserve.cli.console import CALLER_ERRORS, Json, Output, err, out
from samserve.cli.embed_summary import EmbedSummary, result_as_json
from samserve.client import Client
from samserve.core.errors import SamserveError

IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    *(".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"),
}
APPLE_DOUBLE = "._"  # macOS keeps metadata in files of this prefix beside the files they describe


def embed(
    paths: list[Path],
    in_flight: Annotated[
        int, typer.Option(min=1, help="Images in memory or in flight at once.")
    ] = 16,
    timeout: Timeout = 60,
    model: Model = "",
    as_json: Json = False,
) -> None:
    """Embed image files, and all images in folders and their subfolders, into the cache.

    Folders are searched for names that end in .jpg, .jpeg, .jpe, .jfif, .mpo, .png, .webp, .tif,
    .tiff, .bmp or .gif. An image that is cached costs a lookup by hash. To continue an interrupted
    run, run the same command again. With --json, prints a line for each image, then a line with the
    counts; a run that ends early adds "error" to the last line.

    Exit code 0: all images are embedded; 1: some failed and may be retried; 2: files are missing,
    damaged, unreadable or too large; 130: interrupted.
    """
    output = Output(as_json)
    with output.exit_on(mistakes=(FileNotFoundError,)):
        files = [file for path in paths for file in find_images(path)]
    if not files:
        folders = ", ".join(map(str, paths))
        output.fail(2, f"no images in {folders}; supported: {', '.join(sorted(IMAGE_SUFFIXES))}")

    summary = EmbedSummary()
    with connect(output, model, timeout) as client:
        try:
            _embed_files(output, client, files, in_flight, summary)
        except KeyboardInterrupt:
            _stop(output, summary, len(files), 130, "interrupted")
        except SamserveError as problem:
            code = 2 if isinstance(problem, CALLER_ERRORS) else 1
            _stop(output, summary, len(files), code, str(problem))

    if as_json:
        output.print_json(summary.as_json())
    else:
        _print_summary(summary)
    raise typer.Exit(summary.exit_code)


def find_images(path: Path) -> list[Path]:
    """A file itself, or the images in a folder and its subfolders.

    Folders, and metadata that macOS writes, are passed over with a line on stderr.

    Raises:
        FileNotFoundError: there is no such file or folder.
    """
    if not path.is_dir():
        return [existing_file(path)]

    named = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    files = [file for file in named if _is_image(file)]
    if len(files) < len(named):
        err.print(
            f"{path}: passed over {len(named) - len(files)} folders and macOS metadata files "
            f"({APPLE_DOUBLE}*) that are named like images",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    return files


def _is_image(file: Path) -> bool:
    """Whether a path with an image's suffix is worth a try; a FIFO or a broken link is one."""
    return not file.is_dir() and not file.name.startswith(APPLE_DOUBLE)


def _embed_files(
    output: Output, client: Client, files: list[Path], in_flight: int, summary: EmbedSummary
) -> None:
    """Embed the files; show a progress bar, and with --json a line for each result."""
    columns = (
        TextColumn("embedding"),
        BarColumn(),
        MofNCompleteColumn(),
        ImageRate(),
        TimeRemainingColumn(),
    )

    with Progress(*columns, console=err, transient=True) as progress:
        bar = progress.add_task("", total=len(files))
        for result in client.embed_many(files, in_flight=in_flight):
            summary.add(result)
            progress.advance(bar)
            if output.as_json:
                output.print_json(result_as_json(result))


def _stop(output: Output, summary: EmbedSummary, total: int, code: int, reason: str) -> NoReturn:
    """End a run early, with its summary so far."""
    if not output.as_json:
        _print_summary(summary)
    left = total - summary.total
    message = f"{reason}; {left} of {total} images left; run the same command again to continue"
    output.fail(code, message, details=summary.as_json())


def _print_summary(summary: EmbedSummary) -> None:
    """Counts on stdout, reasons on stderr."""
    counts, *reasons = summary.lines()
    out.print(counts, markup=False, highlight=False)
    for reason in reasons:
        err.print(reason, markup=False, highlight=False, soft_wrap=True)


class ImageRate(ProgressColumn):
    """Images per second over the last seconds."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f} images/s")
