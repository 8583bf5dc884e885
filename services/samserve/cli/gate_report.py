"""How the commands show the gate's progress, reports and refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from samserve.cli.console import err
from samserve.variants.gate.judge import Report

AddBar: TypeAlias = Callable[[str, int], Callable[[], None]]


@contextmanager
def progress_bars() -> Iterator[AddBar]:
    """Progress bars on stderr.

    Yields a function that adds a bar with a title and a length, and returns a function that
    advances the bar by one.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )

    with Progress(*columns, console=err, transient=True) as progress:

        def add_bar(title: str, total: int) -> Callable[[], None]:
            bar = progress.add_task(title, total=total)
            return lambda: progress.advance(bar)

        yield add_bar


def report_table(title: str, report: Report) -> Table:
    """One row for each image, and one for all together."""
    table = Table("image", "cosine", "masks", "too small", "mean IoU", "worst IoU", title=title)
    for image in report.images:
        table.add_row(
            image.image,
            f"{min(image.cosine.values()):.6f}",
            str(image.masks),
            str(image.too_small),
            f"{image.mean_iou:.4f}",
            f"{image.worst_iou:.4f}",
        )

    table.add_section()
    table.add_row(
        "all",
        f"{report.cosine:.6f}",
        str(report.masks),
        str(report.too_small),
        f"{report.mean_iou:.4f}",
        f"{report.worst_iou:.4f}",
    )
    return table


def print_refusal(title: str, report: Report) -> None:
    """Print on stderr why the gate refused an encoder."""
    for reason in report.reasons:
        err.print(f"refused: {title}: {reason}", markup=False, highlight=False, soft_wrap=True)
