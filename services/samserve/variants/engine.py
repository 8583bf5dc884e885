"""Engines: a bundle's encoder compiled by TensorRT for one kind of GPU.

They are kept in the bundle's folder under `engines/`, each with its facts beside it, and are not served from there:
`publish` makes a variant of one that has passed the gate.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import onnx
from google.protobuf.message import DecodeError

from samserve.bundles.bundle import ENCODER, Bundle
from samserve.bundles.gpu import Gpu
from samserve.bundles.lock import locked
from samserve.bundles.variant import FACTS, TENSORRT, VARIANTS, digest, read_facts, write_variant
from samserve.variants.compiler import STANDARD, Compiler, EngineRefused, count_types
from samserve.variants.precision import Half, mixed

ENGINES = "engines"
PLAN = "model.plan"
WEIGHTS = "weights"


@dataclass(frozen=True, slots=True)
class Profile:
    """Images in a batch: the least and the most that the engine takes, and the number it is tuned for."""

    least: int
    optimum: int
    most: int

    @classmethod
    def parse(cls, text: str) -> Profile:
        """`LEAST,OPTIMUM,MOST`. Raises ValueError."""
        sizes = [int(part) if part.isdecimal() else 0 for part in text.split(",")]
        if len(sizes) != 3 or sizes[0] < 1 or sizes != sorted(sizes):
            raise ValueError(
                f"{text!r} is no batch: give the least, the optimum and the most images, such as 1,4,8"
            )
        return cls(*sizes)

    def __str__(self) -> str:
        return ",".join(map(str, self.sizes))

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.least, self.optimum, self.most


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What settles an engine besides its encoder and the TensorRT that compiles it."""

    target: Gpu
    precision: Half = "fp16"
    profile: Profile = Profile(1, 4, 8)


@dataclass(frozen=True, slots=True)
class Engine:
    """built: now, rather than found."""

    file: Path
    facts: dict[str, Any]
    built: bool


class Report(Protocol):
    """What the gate (samserve.variants.gate) says of a candidate."""

    @property
    def passed(self) -> bool: ...

    def as_json(self) -> dict[str, Any]: ...


def build(
    bundle: Bundle,
    recipe: EngineSpec,
    compiler: Compiler,
    say: Callable[[str], None] = lambda _: None,
) -> Engine:
    """Compile a bundle's encoder, unless that engine is there already; of several who ask at once, one does.

    Raises NoCompiler for a target that the compiler does not know, EngineRefused.
    """
    recipe = replace(recipe, target=compiler.aim(recipe.target))
    folder = bundle.path / ENGINES
    folder.mkdir(exist_ok=True)
    onnx_digest = encoder_digest(bundle)
    file = folder / file_name(recipe, compiler, onnx_digest)
    with locked(folder, say):  # on one GPU two must not time kernels at once, either
        if not file.exists():
            with TemporaryDirectory(dir=folder) as aside:
                say(f"writing the encoder's graph in {recipe.precision}")
                graph = _write_graph(bundle, recipe.precision, Path(aside))
                say(f"compiling it for {recipe.target}")
                _compile(graph, recipe, compiler, file, onnx_digest)
            return Engine(file, read_facts(_facts_of(file)), built=True)
    return Engine(file, read_facts(_facts_of(file)), built=False)


def published(bundle: Bundle, engine: Engine) -> str | None:
    """The name of the variant that this very engine is already, if it is."""
    name = _variant_name(engine)
    file = bundle.path / VARIANTS / name / FACTS
    return name if file.exists() and read_facts(file)["sha256"] == engine.facts["sha256"] else None


def publish(bundle: Bundle, engine: Engine, report: Report) -> Path:
    """Make a variant of an engine that has passed the gate, in place of a former one of its name: its folder.

    Raises EngineRefused for one that has not passed, or that Triton cannot run.
    """
    facts = engine.facts
    if facts["compiler"] != STANDARD:
        raise EngineRefused(
            f"{engine.file.name} is a check by {facts['compiler']}: Triton runs plans of TensorRT only"
        )
    if not report.passed:
        raise EngineRefused(f"{engine.file.name} has not passed the gate, and stays unpublished")
    name = _variant_name(engine)
    made, place = bundle.path / ENGINES / f"{name}.variant", bundle.path / VARIANTS / name
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    (made / PLAN).hardlink_to(engine.file)
    published = {"backend": TENSORRT, "model": PLAN, **facts, "gate": report.as_json()}
    write_variant(made, bundle.name, bundle.facts["preprocessing"], published)
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(exist_ok=True)
    return made.rename(place)


def file_name(recipe: EngineSpec, compiler: Compiler, onnx_digest: str) -> str:
    """Everything that an engine depends on."""
    batch = "-".join(map(str, recipe.profile.sizes))
    by = f"{compiler.kind}-{compiler.version}"
    suffix = "plan" if compiler.serves else "check"
    return f"{recipe.target.slug}-{by}-{onnx_digest}-{recipe.precision}-batch-{batch}.{suffix}"


def encoder_digest(bundle: Bundle) -> str:
    """12 hexadecimal digits that change with the encoder's graph or its weights, in however many files they lie."""
    files = {
        name: file["sha256"]
        for name, file in bundle.facts["files"].items()
        if name.startswith(ENCODER)
    }
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:12]


def _variant_name(engine: Engine) -> str:
    return f"{engine.facts['precision']}-{engine.facts['target']}"


def _write_graph(bundle: Bundle, precision: Half, folder: Path) -> Path:
    """The encoder in mixed precision, its weights in a file of their own: ViT-H's would triple in memory as one."""
    graph = folder / ENCODER
    try:
        model = mixed(onnx.load(bundle.encoder, load_external_data=False), precision, bundle.path)
    except (DecodeError, ValueError) as problem:
        raise EngineRefused(f"{bundle.encoder} is not an encoder's graph: {problem}") from problem
    onnx.save(model, graph, save_as_external_data=True, location=WEIGHTS)
    return graph


def _compile(
    graph: Path, recipe: EngineSpec, compiler: Compiler, file: Path, onnx_digest: str
) -> None:
    """Compile into `file`, its facts first: the engine appears last, and whole."""
    cache = file.parent / f"{recipe.target.slug}-{compiler.version}.timing"
    begun = time.monotonic()
    compiled = compiler.compile(
        graph,
        recipe.target,
        recipe.profile.sizes,
        cache.read_bytes() if cache.exists() else b"",
    )
    seconds = time.monotonic() - begun
    aside = file.with_suffix(".part")
    aside.write_bytes(compiled.plan)
    facts = {
        "compiler": compiler.kind,
        "tensorrt_version": compiler.version,
        "target": recipe.target.slug,
        "gpu": recipe.target.gpu,
        "compute_capability": recipe.target.capability,
        "onnx_digest": onnx_digest,
        "precision": recipe.precision,
        "profile": list(recipe.profile.sizes),
        "bytes": aside.stat().st_size,
        "sha256": digest(aside),
        "activation_bytes": compiled.activations,
        "seconds": round(seconds, 1),
        "layers": count_types(compiled.layers),
    }
    _facts_of(file).write_text(json.dumps(facts, indent=1) + "\n")
    if compiled.timing_cache:
        cache.write_bytes(compiled.timing_cache)
    aside.rename(file)


def _facts_of(file: Path) -> Path:
    return file.with_suffix(".json")
