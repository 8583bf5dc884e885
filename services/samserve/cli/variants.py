"""What `samserve models verify` and `samserve models quantise` do and say."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from samserve.bundles.bundle import Bundle, variant_names
from samserve.bundles.lock import locked
from samserve.bundles.store import UnknownModel
from samserve.bundles.variant import BrokenBundle
from samserve.cli.console import err, fail, out, store
from samserve.core.errors import SamserveError
from samserve.local.process import StartFailed
from samserve.variants.engine import Engine, published
from samserve.variants.engine import publish as publish_plan
from samserve.variants.gate.images import Picture, pictures
from samserve.variants.gate.judge import Report
from samserve.variants.gate.trial import (
    Reference,
    Trial,
    encode_reference,
    publish,
    try_engine,
    try_variant,
    verify,
)
from samserve.variants.gate.triton import WrongModelServed, connect_encoder, start_encoder
from samserve.variants.quantise import AUTO, RECIPES, NothingToQuantise, variant_name


def verify_model(model: str, images: Path | None, triton: str, as_json: bool) -> None:
    """Compare an encoder, as Triton serves it, with the exported one. Exit code 1: refused."""
    with _failures():
        bundle = store().load(model)
        shown = pictures(bundle.frame, images)
        with _progress() as steps:
            reference = encode_reference(bundle, shown, steps("the exported encoder", len(shown)))
            with connect_encoder(bundle, triton) if triton else start_encoder(bundle) as encoder:
                report, milliseconds = verify(
                    bundle, encoder, shown, reference, steps(model, len(shown))
                )
    speed = {"milliseconds": milliseconds, "exported_milliseconds": reference.milliseconds}
    if as_json:
        print(
            json.dumps(
                {
                    "model": model,
                    "model_version": bundle.model_version,
                    **report.as_json(),
                    "speed": speed,
                }
            )
        )
    else:
        out.print(_table(model, report))
    _refuse_unless_passed(model, report)


@dataclass(frozen=True, slots=True)
class Quantised:
    """kept: the name of the variant that serves now, if one does. tried: empty if it was there already. exported:
    milliseconds of an image by the exported encoder.
    """

    kept: str | None
    tried: list[Trial]
    exported: float


def quantise_model(name: str, precision: str, images: Path | None, as_json: bool) -> None:
    """Make CPU variants, keep the fastest that passes the gate; of one precision, unless it is there already. Exit code
    1: refused.
    """
    with _failures():
        bundle = store().own(name)
        with locked(bundle.path, err.print):
            there = variant_name(precision)
            if there in variant_names(bundle.path):
                done = Quantised(there, [], 0.0)
            else:
                done = _quantise(bundle, precision, images, as_json)
    if as_json:
        reports = [
            {
                "precision": one.precision,
                "milliseconds": one.milliseconds,
                "gate": one.report.as_json(),
            }
            for one in done.tried
        ]
        print(json.dumps({"model": name, "variant": done.kept, "tried": reports}))
    elif done.tried:
        for one in done.tried:
            out.print(
                _table(
                    f"{name} in {one.precision}: {one.milliseconds:,.0f} ms an image", one.report
                )
            )
        out.print(f"the exported encoder: {done.exported:,.0f} ms an image", highlight=False)
    if done.kept is None:
        for one in done.tried:
            _say(f"{name} in {one.precision}", one.report)
        raise typer.Exit(1)
    err.print(
        f"{'kept as' if done.tried else 'there already:'} {name}:{done.kept}", highlight=False
    )


def publish_engine(bundle: Bundle, engine: Engine, images: Path | None) -> str:
    """Have an engine for this machine's GPU pass the gate, and published; its variant's name. Exit code 1: refused."""
    if (there := published(bundle, engine)) is not None:
        return there
    with _failures(), _progress() as steps:
        shown = pictures(bundle.frame, images)
        reference = encode_reference(bundle, shown, steps("the exported encoder", len(shown)))
        report, milliseconds = try_engine(
            bundle, engine, shown, reference, steps(engine.file.name, len(shown))
        )
    err.print(_table(f"{engine.file.name}: {milliseconds:,.1f} ms an image", report))
    _refuse_unless_passed(engine.file.name, report)
    return publish_plan(bundle, engine, report).name


def _quantise(bundle: Bundle, precision: str, images: Path | None, as_json: bool) -> Quantised:
    wanted = list(RECIPES) if precision == AUTO else [precision]
    shown = pictures(bundle.frame, images)
    with (
        tempfile.TemporaryDirectory(prefix=".making-", dir=bundle.path) as aside,
        _progress() as steps,
    ):
        reference = encode_reference(bundle, shown, steps("the exported encoder", len(shown)))
        tried = _try_all(bundle, wanted, Path(aside), shown, reference, steps)
        best = min(
            (one for one in tried if one.report.passed),
            key=lambda one: one.milliseconds,
            default=None,
        )
        if best is not None and len(wanted) > 1 and best.milliseconds >= reference.milliseconds:
            fail(
                1, f"no variant of {bundle.name} is faster here than the exported encoder", as_json
            )
        kept = publish(bundle, best, reference) if best is not None else None
    return Quantised(kept, tried, reference.milliseconds)


def _try_all(
    bundle: Bundle,
    wanted: list[str],
    aside: Path,
    shown: list[Picture],
    reference: Reference,
    steps: Callable[[str, int], Callable[[], None]],
) -> list[Trial]:
    """Each precision in turn; of several, those that do nothing for this encoder are passed over."""
    tried = []
    for one in wanted:
        try:
            tried.append(try_variant(bundle, one, aside, shown, reference, steps(one, len(shown))))
        except NothingToQuantise:
            if len(wanted) == 1:
                raise
    return tried


def _table(title: str, report: Report) -> Table:
    table = Table("picture", "cosine", "masks", "too small", "mean IoU", "worst IoU", title=title)
    for one in report.pictures:
        low = min(one.cosine.values())
        row = (
            f"{low:.6f}",
            str(one.masks),
            str(one.too_small),
            f"{one.mean_iou:.4f}",
            f"{one.worst_iou:.4f}",
        )
        table.add_row(one.picture, *row)
    table.add_section()
    whole = (f"{report.cosine:.6f}", str(report.masks), str(report.too_small))
    table.add_row("all", *whole, f"{report.mean_iou:.4f}", f"{report.worst_iou:.4f}")
    return table


def _refuse_unless_passed(title: str, report: Report) -> None:
    if not report.passed:
        _say(title, report)
        raise typer.Exit(1)


def _say(title: str, report: Report) -> None:
    for reason in report.reasons:
        err.print(f"refused: {title}: {reason}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _progress() -> Iterator[Callable[[str, int], Callable[[], None]]]:
    """Gives bars: of a name and a length, each a function that moves it on by one."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as progress:

        def steps(what: str, total: int) -> Callable[[], None]:
            bar = progress.add_task(what, total=total)
            return lambda: progress.advance(bar)

        yield steps


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except (UnknownModel, FileNotFoundError, NothingToQuantise, WrongModelServed) as problem:
        fail(2, str(problem))
    except (BrokenBundle, StartFailed, SamserveError, OSError) as problem:
        fail(1, str(problem))
