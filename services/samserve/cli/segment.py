"""`samserve segment`: the masks of one object in an image."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from samserve.cli.connection import STDIN, Model, Timeout, connect, existing_file, waiting
from samserve.cli.console import Json, Output, out
from samserve.client import Answer, Box, Click


def segment(
    image: Annotated[Path, typer.Argument(help="An image file, or - for standard input.")],
    point: Annotated[
        list[str] | None,
        typer.Option(help="X,Y or X,Y,1 on the object; X,Y,0 on the background. May be repeated."),
    ] = None,
    box: Annotated[str, typer.Option(help="X0,Y0,X1,Y1 around the object.")] = "",
    multimask: Annotated[
        bool, typer.Option(help="Three candidate masks, or one mask for a clear prompt.")
    ] = True,
    overlay_file: Annotated[
        Path | None, typer.Option("--out", help="Write a PNG of the image with the best mask.")
    ] = None,
    clamp: Annotated[
        bool, typer.Option("--clamp", help="Cut a box off at the image's edges.")
    ] = False,
    timeout: Timeout = 60,
    model: Model = "",
    as_json: Json = False,
) -> None:
    """Segment the object at the points or in the box.

    Coordinates are pixels of the oriented image: EXIF orientation applied, origin at the top left.
    """
    output = Output(as_json)
    with output.exit_on(mistakes=(ValueError,)):
        clicks = [parse_click(text) for text in point or []]
        frame = parse_box(box) if box else None

    name = "standard input" if image == STDIN else image.name
    with output.exit_on(mistakes=(OSError,)):
        data = sys.stdin.buffer.read() if image == STDIN else existing_file(image).read_bytes()

    with connect(output, model, timeout) as client, waiting(f"segmenting {name}"):
        answer = client.segment(data, clicks, box=frame, multimask=multimask, clamp=clamp)

    if overlay_file is not None:
        from samserve.local.overlay import overlay

        with output.exit_on(failures=(OSError,)):
            overlay(io.BytesIO(data), answer.masks[0].array(), clicks, frame, overlay_file)

    if as_json:
        output.print_json(answer.as_json())
    else:
        out.print(_table(name, answer))


def parse_click(text: str) -> Click:
    """Parse `X,Y` or `X,Y,LABEL`; a label of 0 is the background. Raises ValueError."""
    numbers = _parse_numbers(text)
    if len(numbers) not in (2, 3):
        raise ValueError(f"invalid point {text!r}; expected X,Y or X,Y,1 or X,Y,0")
    x, y, *label = numbers
    return Click(x, y, on=label != [0])


def parse_box(text: str) -> Box:
    """Parse `X0,Y0,X1,Y1`. Raises ValueError."""
    numbers = _parse_numbers(text)
    if len(numbers) != 4:
        raise ValueError(f"invalid box {text!r}; expected X0,Y0,X1,Y1")
    return Box(*numbers)


def _parse_numbers(text: str) -> list[float]:
    """Numbers separated by commas; empty if one is no number."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return []


def _table(name: str, answer: Answer) -> Table:
    title = f"{name}: {answer.cache.name}"
    table = Table("mask", "predicted IoU", "stability", "area, px", "box", title=title)
    for rank, mask in enumerate(answer.masks, 1):
        table.add_row(
            str(rank),
            f"{mask.predicted_iou:.3f}",
            f"{mask.stability_score:.3f}",
            f"{mask.area:,}",
            " ".join(map(str, mask.bbox)),
        )
    return table
