"""`samserve find`: every instance of some concepts in an image."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from samserve.cli.connection import STDIN, Model, Timeout, connect, existing_file, waiting
from samserve.cli.console import Json, Output, out
from samserve.cli.segment import parse_box
from samserve.client import Concept, Example, Findings


def find(
    image: Annotated[Path, typer.Argument(help="An image file, or - for standard input.")],
    text: Annotated[
        list[str] | None,
        typer.Option(help="A short noun phrase, such as 'red cup'. May be repeated."),
    ] = None,
    example: Annotated[
        list[str] | None,
        typer.Option(help="X0,Y0,X1,Y1 around an object like those meant. May be repeated."),
    ] = None,
    unlike: Annotated[
        list[str] | None,
        typer.Option(help="X0,Y0,X1,Y1 around an object that is not meant. May be repeated."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Least score, 0 to 1; by default the model's.")
    ] = None,
    max_overlap: Annotated[
        float,
        typer.Option(help="Leave out masks whose IoU with a better one is at least this; 0: none."),
    ] = 0,
    overlay_file: Annotated[
        Path | None, typer.Option("--out", help="Write a PNG of the image with all masks.")
    ] = None,
    timeout: Timeout = 60,
    model: Model = "",
    as_json: Json = False,
) -> None:
    """Find every instance of the phrases, and of objects like the examples.

    Examples belong to each phrase; without a phrase they alone say what is meant. Only some models
    know concepts.
    """
    output = Output(as_json)
    with output.exit_on(mistakes=(ValueError,)):
        examples = [Example(parse_box(box)) for box in example or []]
        examples += [Example(parse_box(box), negative=True) for box in unlike or []]
        if not text and not examples:
            raise ValueError("nothing to find; give --text or --example")
    phrases = text or [""]

    name = "standard input" if image == STDIN else image.name
    with output.exit_on(mistakes=(OSError,)):
        data = sys.stdin.buffer.read() if image == STDIN else existing_file(image).read_bytes()

    concepts = [Concept(phrase, examples) for phrase in phrases]
    with connect(output, model, timeout) as client, waiting(f"searching {name}"):
        found = client.find(data, concepts, threshold=threshold, max_overlap=max_overlap)

    if overlay_file is not None:
        _draw(output, data, found, overlay_file)
    if as_json:
        output.print_json(found.as_json())
    else:
        out.print(_table(name, phrases, found))


def _draw(output: Output, data: bytes, found: Findings, file: Path) -> None:
    from samserve.local.overlay_all import overlay_all

    instances = [each for result in found.results for each in result.instances]
    masks = [each.mask.runs() for each in instances if each.mask.area]
    with output.exit_on(failures=(OSError,)):
        overlay_all(io.BytesIO(data), masks, file)


def _table(name: str, phrases: list[str], found: Findings) -> Table:
    title = f"{name}: {found.cache.name}"
    table = Table("concept", "presence", "score", "area, px", "box", title=title)
    for phrase, result in zip(phrases, found.results, strict=True):
        label = phrase or "examples"
        if result.error is not None:
            table.add_row(label, "", "", "", str(result.error))
            continue
        presence = f"{result.presence:.3f}"
        if not result.instances:
            table.add_row(label, presence, "", "", "nothing above the threshold")
        for each in result.instances:
            box = " ".join(f"{edge:.0f}" for edge in each.box)
            table.add_row(label, presence, f"{each.score:.3f}", f"{each.mask.area:,}", box)
    return table
