"""`samserve everything`: all masks of an image, or of the images in a folder."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from samserve.cli.connection import Model, Timeout, connect
from samserve.cli.console import CALLER_ERRORS, Json, Output, err
from samserve.cli.embed import IMAGE_SUFFIXES, find_images
from samserve.client import Client, Everything, GridOptions, MaskFormat
from samserve.core.errors import InvalidInput, SamserveError
from samserve.core.image_id import image_id
from samserve.core.rle import read_rle

OVERLAYS = "overlays"


@dataclass(slots=True)
class Counts:
    """The images of a run."""

    done: int = 0
    known: int = 0
    failed: int = 0
    masks: int = 0
    retryable: bool = False


def everything(
    path: Annotated[Path, typer.Argument(help="An image file, or a folder with images.")],
    out_folder: Annotated[
        Path, typer.Option("--out", help="Folder for annotations.json and the overlays.")
    ] = Path("everything"),
    points: Annotated[int, typer.Option(help="Points of the grid along each side, 1 to 64.")] = 32,
    iou: Annotated[
        float | None,
        typer.Option(help="Least predicted IoU of a mask; 0.88, or 0.5 with --beside."),
    ] = None,
    stability: Annotated[
        float | None,
        typer.Option(help="Least stability score of a mask; 0.95, or 0.6 with --beside."),
    ] = None,
    crops: Annotated[int, typer.Option(help="Layers of crops, for small objects; 0 to 2.")] = 0,
    min_area: Annotated[
        int, typer.Option(help="Fill smaller holes and remove smaller islands, in pixels.")
    ] = 0,
    beside: Annotated[
        Path | None,
        typer.Option(help="COCO annotations that are accepted; find what is left."),
    ] = None,
    polygons: Annotated[
        bool, typer.Option(help="Write masks without holes as polygons instead of run lengths.")
    ] = False,
    overlays: Annotated[bool, typer.Option(help="Draw the masks onto the images.")] = True,
    timeout: Timeout = 600,
    model: Model = "",
    as_json: Json = False,
) -> None:
    """Segment everything in an image, or in all images of a folder and its subfolders.

    Writes annotations.json in COCO's format with the fields of SA-1B, and a PNG for each image.
    An image that is done is not asked for again: to continue an interrupted run, run the same
    command again. The thresholds depend on the model; for nano try `--iou 0.7 --stability 0.9`.

    Exit code 0: all images are done; 1: some failed and may be retried; 2: files are missing or
    damaged, or an option is invalid; 130: interrupted.
    """
    output = Output(as_json)
    root = path if path.is_dir() else path.parent
    options = GridOptions(
        points_per_side=points,
        points_per_batch=8,
        pred_iou_thresh=iou,
        stability_score_thresh=stability,
        crop_n_layers=crops,
        min_mask_region_area=min_area,
    )
    with output.exit_on(mistakes=(FileNotFoundError, InvalidInput), failures=(OSError,)):
        files = find_images(path)
        run = _Run(output, root, out_folder, options, polygons, overlays, beside, model)
    if not files:
        output.fail(2, f"no images in {path}; supported: {', '.join(sorted(IMAGE_SUFFIXES))}")

    with connect(output, model, timeout) as client, output.exit_on(failures=(OSError,)):
        code, reason = run.over(client, files)

    _end(output, run, files, code, reason)


class _Run:
    """One run over the images."""

    def __init__(
        self,
        output: Output,
        root: Path,
        folder: Path,
        options: GridOptions,
        polygons: bool,
        overlays: bool,
        beside: Path | None,
        model: str,
    ) -> None:
        from samserve.cli.everything_journal import Journal
        from samserve.coco.read import read_dataset

        accepted = None if beside is None else beside.read_bytes()
        self._accepted = None if accepted is None else read_dataset(accepted)
        self._output = output
        self._root = root
        self._folder = folder
        self._options = options
        self._formats: tuple[MaskFormat, ...] = ("rle", "polygons") if polygons else ("rle",)
        self._overlays = overlays
        self.counts = Counts()
        self.journal = Journal(
            folder,
            {
                **asdict(options),
                "point_grids": [],
                "polygons": polygons,
                "model": model,
                "beside": None if accepted is None else image_id(accepted),
            },
        )

    def name(self, file: Path) -> str:
        """Return the image's path in the data set."""
        return file.relative_to(self._root).as_posix()

    def over(self, client: Client, files: list[Path]) -> tuple[int, str]:
        """Segment the files; return the exit code, and why the run ended early, if it did."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=err, transient=True) as progress:
            images = progress.add_task("images", total=len(files), visible=len(files) > 1)
            points = progress.add_task("points")
            for file in files:
                try:
                    self._segment(client, file, progress, points)
                except KeyboardInterrupt:
                    return 130, "interrupted"
                except SamserveError as problem:
                    self._fail(file, str(problem), not isinstance(problem, CALLER_ERRORS))
                    if not isinstance(problem, InvalidInput):
                        return (1 if self.counts.retryable else 2), str(problem)
                except OSError as problem:
                    self._fail(file, problem.strerror or str(problem), retryable=False)
                progress.advance(images)

        if not self.counts.failed:
            return 0, ""
        return (1 if self.counts.retryable else 2), ""

    def _segment(self, client: Client, file: Path, progress: Progress, task: TaskID) -> None:
        data = file.read_bytes()
        name = self.name(file)
        known = self.journal.count(name, image_id(data))
        if known is not None:
            self.counts.known += 1
            self._report(name, known, 0)
            return

        begin = time.monotonic()
        progress.reset(task, total=None, description=name)
        show = partial(_show, progress, task)
        found = self._ask(client, name, data, show)
        if self._overlays:
            self._draw(file, found)
        self.journal.add(name, found)
        self.counts.done += 1
        self._report(name, len(found.records), time.monotonic() - begin)

    def _ask(self, client: Client, name: str, data: bytes, show: Any) -> Everything:
        if self._accepted is None:
            return client.generate_masks(
                data, self._options, formats=self._formats, on_progress=show
            )
        accepted = [annotation.mask for annotation in self._accepted.masks_of(name)]
        return client.propose(
            data, accepted, self._options, formats=self._formats, on_progress=show
        )

    def _draw(self, file: Path, found: Everything) -> None:
        from samserve.local.overlay_all import overlay_all

        height, width = found.size.height, found.size.width
        masks = [read_rle(record.mask.rle, height, width) for record in found.records]
        overlay_all(file, masks, self._folder / OVERLAYS / f"{self.name(file)}.png")

    def _report(self, name: str, masks: int, seconds: float) -> None:
        self.counts.masks += masks
        if self._output.as_json:
            self._output.print_json({"path": name, "masks": masks, "seconds": round(seconds, 3)})

    def _fail(self, file: Path, reason: str, retryable: bool) -> None:
        self.counts.failed += 1
        self.counts.retryable |= retryable
        if self._output.as_json:
            self._output.print_json({"path": self.name(file), "error": reason, "retry": retryable})
        else:
            err.print(f"{file}: {reason}", markup=False, highlight=False, soft_wrap=True)


def _show(progress: Progress, task: TaskID, done: int, total: int) -> None:
    progress.update(task, completed=done, total=total)


def _end(output: Output, run: _Run, files: list[Path], code: int, reason: str) -> None:
    """Write the annotations, print the counts, and end with the code."""
    with output.exit_on(failures=(OSError,)):
        written = run.journal.write_annotations([run.name(file) for file in files])

    counts = run.counts
    details = {
        "images": counts.done + counts.known,
        "known": counts.known,
        "failed": counts.failed,
        "masks": counts.masks,
        "annotations": str(written),
    }
    if reason:
        left = len(files) - counts.done - counts.known
        message = f"{reason}; {left} of {len(files)} images left; run the same command to continue"
        output.fail(code, message, details=details)
    if output.as_json:
        output.print_json(details)
    else:
        known = f", {counts.known} of them done before" if counts.known else ""
        output.print_text(
            f"{counts.masks:,} masks of {counts.done + counts.known} images{known}: {written}"
        )
    raise typer.Exit(code)
