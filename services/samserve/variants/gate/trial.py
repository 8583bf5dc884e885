"""Variants on their way through the gate: made aside, judged and timed over Triton, published only if they pass."""

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
from samserve.variants.gate.images import Picture
from samserve.variants.gate.judge import Encoder, Report, judge
from samserve.variants.gate.masks import Tensors
from samserve.variants.gate.triton import start_encoder
from samserve.variants.quantise import variant_name, write

Advance = Callable[[], object]
THREADS = 2  # of the gate's own decoder


@dataclass(frozen=True, slots=True)
class Reference:
    """What the exported encoder makes of the pictures; milliseconds: an image through Triton, the median."""

    tensors: list[Tensors]
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Trial:
    """A variant's folder aside of the bundle's others, what the gate says, and its median time of an image."""

    precision: str
    folder: Path
    report: Report
    milliseconds: float


class TimedEncoder:
    """An encoder, and how long each of its answers took."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder, self._taken = encoder, list[float]()

    def __call__(self, image: FramedImage) -> Tensors:
        started = time.perf_counter()
        answer = self._encoder(image)
        self._taken.append(1000 * (time.perf_counter() - started))
        return answer

    @property
    def milliseconds(self) -> float:
        return statistics.median(self._taken)


def encode_reference(bundle: Bundle, pictures: Sequence[Picture], advance: Advance) -> Reference:
    """Run the exported encoder over the pictures. Raises StartFailed, Unavailable."""
    tensors = []
    with start_encoder(load_bundle(bundle.path)) as encoder:
        timed = TimedEncoder(encoder)
        for picture in pictures:
            tensors.append(timed(picture.image))
            advance()
    return Reference(tensors, timed.milliseconds)


def verify(
    bundle: Bundle,
    encoder: Encoder,
    pictures: Sequence[Picture],
    reference: Reference,
    advance: Advance,
) -> tuple[Report, float]:
    """The gate's report on an encoder, and its median milliseconds of an image."""
    timed = TimedEncoder(encoder)
    decoder = MaskDecoder(bundle, Threads(THREADS))
    return judge(decoder, pictures, reference.tensors, timed, advance=advance), timed.milliseconds


def try_variant(
    bundle: Bundle,
    precision: str,
    aside: Path,
    pictures: Sequence[Picture],
    reference: Reference,
    advance: Advance,
) -> Trial:
    """Make a CPU variant under `aside`, and judge and time it. Raises NothingToQuantise, StartFailed, Unavailable."""
    folder = aside / variant_name(precision)
    write(bundle, precision, folder)
    with start_encoder(replace(bundle, variant=load_variant(folder))) as encoder:
        report, milliseconds = verify(bundle, encoder, pictures, reference, advance)
    return Trial(precision, folder, report, milliseconds)


def try_engine(
    bundle: Bundle,
    engine: Engine,
    pictures: Sequence[Picture],
    reference: Reference,
    advance: Advance,
) -> tuple[Report, float]:
    """Judge and time an engine on this machine's GPU, by Triton's TensorRT backend. Raises StartFailed, Unavailable."""
    facts = engine.facts
    version = version_of(
        bundle.name, facts["sha256"], bundle.facts["preprocessing"], facts["precision"]
    )
    candidate = Variant(engine.file.stem, version, TENSORRT, engine.file, facts["precision"], facts)
    with start_encoder(replace(bundle, variant=candidate)) as encoder:
        return verify(bundle, encoder, pictures, reference, advance)


def publish(bundle: Bundle, tried: Trial, reference: Reference) -> str:
    """Move a variant that has passed among the bundle's, its report with it; returns its name."""
    if not tried.report.passed:
        raise ValueError(f"{tried.folder.name} has not passed the gate: it must not be published")
    file = tried.folder / FACTS
    speed = {"milliseconds": tried.milliseconds, "exported_milliseconds": reference.milliseconds}
    facts = {**json.loads(file.read_text()), "gate": tried.report.as_json(), "speed": speed}
    file.write_text(json.dumps(facts, indent=1) + "\n")
    place = bundle.path / VARIANTS / tried.folder.name
    place.parent.mkdir(exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    tried.folder.rename(place)
    return place.name
