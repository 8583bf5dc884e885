"""Trials of variants, which are judged and timed in Triton, and published if they pass."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from samserve.bundles.bundle import Bundle, load_bundle
from samserve.bundles.variant import FACTS, TENSORRT, VARIANTS, Variant, load_variant, version_of
from samserve.core.image import FramedImage
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.threads import Threads
from samserve.variants.engine import Engine
from samserve.variants.gate.images import GateImage
from samserve.variants.gate.judge import Encoder, Report, judge
from samserve.variants.gate.masks import Tensors
from samserve.variants.gate.triton import start_encoder
from samserve.variants.quantise import variant_name, write_cpu_variant

Advance = Callable[[], object]  # called after each image
THREADS = 2  # of the gate's own decoder


@dataclass(frozen=True, slots=True)
class ReferenceRun:
    """Results of the exported encoder.

    Attributes:
        tensors: The embedding of each image.
        milliseconds: Median time of one image in Triton.
    """

    tensors: list[Tensors]
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Trial:
    """A variant that was judged, and is not published.

    Attributes:
        precision: Of the variant.
        folder: Where it lies.
        report: The gate's decision.
        milliseconds: Median time of one image in Triton.
    """

    precision: str
    folder: Path
    report: Report
    milliseconds: float


class TimedEncoder:
    """An encoder that measures the time of each call."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._times: list[float] = []  # milliseconds

    def __call__(self, image: FramedImage) -> Tensors:
        started = time.perf_counter()
        tensors = self._encoder(image)
        self._times.append(1000 * (time.perf_counter() - started))
        return tensors

    @property
    def milliseconds(self) -> float:
        """Median time of one image."""
        return statistics.median(self._times)


def encode_reference(bundle: Bundle, images: Sequence[GateImage], advance: Advance) -> ReferenceRun:
    """Run the exported encoder over the images.

    Raises:
        StartFailed, Unavailable: Triton does not start, or does not answer.
    """
    tensors = []
    with start_encoder(load_bundle(bundle.path)) as encoder:
        timed = TimedEncoder(encoder)
        for image in images:
            tensors.append(timed(image.image))
            advance()
    return ReferenceRun(tensors, timed.milliseconds)


def verify(
    bundle: Bundle,
    encoder: Encoder,
    images: Sequence[GateImage],
    reference: ReferenceRun,
    advance: Advance,
) -> tuple[Report, float]:
    """Judge and time an encoder.

    Returns:
        The gate's report, and the median time of one image in milliseconds.
    """
    timed = TimedEncoder(encoder)
    decoder = MaskDecoder(bundle, Threads(THREADS))
    report = judge(decoder, images, reference.tensors, timed, advance=advance)
    return report, timed.milliseconds


def try_variant(
    bundle: Bundle,
    precision: str,
    work: Path,
    images: Sequence[GateImage],
    reference: ReferenceRun,
    advance: Advance,
) -> Trial:
    """Make a CPU variant in the folder `work`; judge and time it.

    Raises:
        NothingToQuantise: The precision does not change this encoder.
        StartFailed, Unavailable: Triton does not start, or does not answer.
    """
    folder = work / variant_name(precision)
    write_cpu_variant(bundle, precision, folder)
    with start_encoder(replace(bundle, variant=load_variant(folder))) as encoder:
        report, milliseconds = verify(bundle, encoder, images, reference, advance)
    return Trial(precision, folder, report, milliseconds)


def try_engine(
    bundle: Bundle,
    engine: Engine,
    images: Sequence[GateImage],
    reference: ReferenceRun,
    advance: Advance,
) -> tuple[Report, float]:
    """Judge and time an engine on this machine's GPU, in Triton's TensorRT backend.

    Returns:
        The gate's report, and the median time of one image in milliseconds.

    Raises:
        StartFailed, Unavailable: Triton does not start, or does not answer.
    """
    facts = engine.facts
    version = version_of(
        bundle.name, facts["sha256"], bundle.facts["preprocessing"], facts["precision"]
    )
    variant = Variant(engine.file.stem, version, TENSORRT, engine.file, facts["precision"], facts)
    with start_encoder(replace(bundle, variant=variant)) as encoder:
        return verify(bundle, encoder, images, reference, advance)


def publish_trial(bundle: Bundle, trial: Trial, reference: ReferenceRun) -> str:
    """Move a variant that passed to the bundle, with its report.

    Returns:
        The variant's name.

    Raises:
        ValueError: It has not passed.
    """
    name = trial.folder.name
    if not trial.report.passed:
        raise ValueError(f"{name} has not passed the gate; it must not be published")

    file = trial.folder / FACTS
    speed = {"milliseconds": trial.milliseconds, "exported_milliseconds": reference.milliseconds}
    facts = {**json.loads(file.read_text()), "gate": trial.report.as_json(), "speed": speed}
    file.write_text(json.dumps(facts, indent=1) + "\n")

    folder = bundle.path / VARIANTS / name
    folder.parent.mkdir(exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    trial.folder.rename(folder)
    return name
