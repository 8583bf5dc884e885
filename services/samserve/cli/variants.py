"""Runs the gate for the commands `verify`, `quantise` and `engine`.

Imports the decoder and Triton's client, so the commands import this module when they run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer

from samserve.bundles.bundle import Bundle, variant_names
from samserve.bundles.files import BrokenBundle
from samserve.bundles.lock import locked
from samserve.bundles.store import UnknownModel
from samserve.cli.console import Output, err, out
from samserve.cli.gate_report import AddBar, print_refusal, progress_bars, report_table
from samserve.cli.store import store
from samserve.core.errors import SamserveError
from samserve.local.process import StartFailed
from samserve.variants.engine import Engine, published_variant
from samserve.variants.engine import publish_engine as publish_plan
from samserve.variants.gate.images import GateImage, gate_images
from samserve.variants.gate.trial import (
    ReferenceRun,
    Trial,
    encode_reference,
    publish_trial,
    try_engine,
    try_variant,
    verify,
)
from samserve.variants.gate.triton import WrongModelServed, connect_encoder, start_encoder
from samserve.variants.quantise import AUTO, RECIPES, NothingToQuantise, variant_name

EXPORTED_TITLE = "the exported encoder"


def verify_variant(output: Output, model: str, *, images: Path | None, triton: str) -> None:
    """Compare an encoder, as Triton serves it, with the exported one.

    Args:
        output: where the report is printed.
        model: `NAME` or `NAME:VARIANT`.
        images: a folder of images; None for drawn images.
        triton: address of a Triton that serves the model; empty to start one.

    Raises:
        typer.Exit: code 1 if the encoder is refused.
    """
    with _gate_errors(output), progress_bars() as add_bar:
        bundle = store().load(model)
        samples = gate_images(bundle.frame, images)
        advance = add_bar(EXPORTED_TITLE, len(samples))
        reference = encode_reference(bundle, samples, advance)
        advance = add_bar(model, len(samples))
        with connect_encoder(bundle, triton) if triton else start_encoder(bundle) as encoder:
            report, milliseconds = verify(bundle, encoder, samples, reference, advance)

    if output.as_json:
        output.print_json(
            {
                "model": model,
                "model_version": bundle.model_version,
                **report.as_json(),
                "speed": {
                    "milliseconds": milliseconds,
                    "exported_milliseconds": reference.milliseconds,
                },
            }
        )
    else:
        out.print(report_table(model, report))

    if not report.passed:
        print_refusal(model, report)
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class Quantised:
    """Result of `quantise`.

    Attributes:
        variant: the name of the variant that is kept; None if all were refused.
        trials: the variants that were tried; empty if the variant existed already.
        exported_ms: milliseconds for an image by the exported encoder.
    """

    variant: str | None
    trials: list[Trial]
    exported_ms: float


def quantise(output: Output, name: str, precision: str, *, images: Path | None) -> None:
    """Make CPU variants of a model, and keep the fastest that passes the gate.

    Args:
        output: where the reports are printed.
        name: the model's name.
        precision: one of RECIPES, or AUTO for all. A variant that exists is not made again.
        images: a folder of images; None for drawn images.

    Raises:
        typer.Exit: code 1 if all variants are refused.
    """
    with _gate_errors(output):
        bundle = store().load_writable(name)
        with locked(bundle.path, err.print):
            variant = variant_name(precision)
            if variant in variant_names(bundle.path):
                result = Quantised(variant, trials=[], exported_ms=0.0)
            else:
                result = _quantise(output, bundle, precision, images)

    if output.as_json:
        trials = [
            {
                "precision": trial.precision,
                "milliseconds": trial.milliseconds,
                "gate": trial.report.as_json(),
            }
            for trial in result.trials
        ]
        output.print_json({"model": name, "variant": result.variant, "tried": trials})
    elif result.trials:
        for trial in result.trials:
            title = f"{name} in {trial.precision}: {trial.milliseconds:,.0f} ms per image"
            out.print(report_table(title, trial.report))
        out.print(f"{EXPORTED_TITLE}: {result.exported_ms:,.0f} ms per image", highlight=False)

    if result.variant is None:
        for trial in result.trials:
            print_refusal(f"{name} in {trial.precision}", trial.report)
        raise typer.Exit(1)

    action = "kept as" if result.trials else "already exists:"
    err.print(f"{action} {name}:{result.variant}", highlight=False)


def publish_engine(output: Output, bundle: Bundle, engine: Engine, *, images: Path | None) -> str:
    """Publish an engine for this machine's GPU if it passes the gate.

    Args:
        output: where a refusal is printed.
        bundle: the engine's model.
        engine: the engine; published ones are not tried again.
        images: a folder of images; None for drawn images.

    Returns:
        The variant's name.

    Raises:
        typer.Exit: code 1 if the engine is refused.
    """
    if (variant := published_variant(bundle, engine)) is not None:
        return variant
    title = engine.file.name
    with _gate_errors(output), progress_bars() as add_bar:
        samples = gate_images(bundle.frame, images)
        advance = add_bar(EXPORTED_TITLE, len(samples))
        reference = encode_reference(bundle, samples, advance)
        advance = add_bar(title, len(samples))
        report, milliseconds = try_engine(bundle, engine, samples, reference, advance)

    err.print(report_table(f"{title}: {milliseconds:,.1f} ms per image", report))
    if not report.passed:
        print_refusal(title, report)
        output.fail(1, f"the gate refused {title}: {'; '.join(report.reasons)}")
    return publish_plan(bundle, engine, report).name


def _quantise(output: Output, bundle: Bundle, precision: str, images: Path | None) -> Quantised:
    """Try the variants in a folder beside the bundle's others, and publish the fastest."""
    precisions = list(RECIPES) if precision == AUTO else [precision]
    samples = gate_images(bundle.frame, images)

    with (
        tempfile.TemporaryDirectory(prefix=".making-", dir=bundle.path) as folder,
        progress_bars() as add_bar,
    ):
        reference = encode_reference(bundle, samples, add_bar(EXPORTED_TITLE, len(samples)))
        trials = _try_all(bundle, precisions, Path(folder), samples, reference, add_bar)
        passed = [trial for trial in trials if trial.report.passed]
        if not passed:
            return Quantised(None, trials, reference.milliseconds)

        fastest = min(passed, key=lambda trial: trial.milliseconds)
        if len(precisions) > 1 and fastest.milliseconds >= reference.milliseconds:
            output.fail(
                1,
                f"no variant of {bundle.name} is faster on this machine than {EXPORTED_TITLE}; "
                f"serve {bundle.name} itself",
            )
        variant = publish_trial(bundle, fastest, reference)
        return Quantised(variant, trials, reference.milliseconds)


def _try_all(
    bundle: Bundle,
    precisions: list[str],
    folder: Path,
    samples: list[GateImage],
    reference: ReferenceRun,
    add_bar: AddBar,
) -> list[Trial]:
    """Try each precision. Of several, those that would not change this encoder are skipped."""
    trials = []
    for precision in precisions:
        advance = add_bar(precision, len(samples))
        try:
            trials.append(try_variant(bundle, precision, folder, samples, reference, advance))
        except NothingToQuantise:
            if len(precisions) == 1:
                raise
    return trials


@contextmanager
def _gate_errors(output: Output) -> Iterator[None]:
    """End the command on errors of the store, of Triton and of the variants."""
    with output.exit_on(
        mistakes=(UnknownModel, FileNotFoundError, NothingToQuantise, WrongModelServed),
        failures=(BrokenBundle, StartFailed, SamserveError, OSError),
    ):
        yield
