"""Engines: a bundle's encoder compiled by TensorRT for one kind of GPU.

Engines are kept in the bundle's folder under `engines/`, with their facts beside them. They are not
served from there: `publish_engine` turns an engine that passed the gate into a variant.
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
from samserve.bundles.files import read_facts, sha256_of
from samserve.bundles.gpu import Gpu
from samserve.bundles.lock import locked
from samserve.bundles.variant import FACTS, TENSORRT, VARIANTS, write_variant
from samserve.variants.compiler import STANDARD, Compiler, EngineRefused, count_types
from samserve.variants.precision import Half, to_mixed_precision

ENGINES = "engines"
PLAN = "model.plan"
WEIGHTS = "weights"


@dataclass(frozen=True, slots=True)
class Profile:
    """Numbers of images in a batch.

    Attributes:
        least: That the engine accepts.
        optimum: That the engine is tuned for.
        most: That the engine accepts.
    """

    least: int
    optimum: int
    most: int

    @classmethod
    def parse(cls, text: str) -> Profile:
        """Parse `LEAST,OPTIMUM,MOST`.

        Raises:
            ValueError: The text has another form, or the numbers are not in ascending order.
        """
        sizes = [int(part) if part.isdecimal() else 0 for part in text.split(",")]
        if len(sizes) != 3 or sizes[0] < 1 or sizes != sorted(sizes):
            raise ValueError(
                f"invalid batch profile {text!r}: expected LEAST,OPTIMUM,MOST such as 1,4,8"
            )
        return cls(*sizes)

    def __str__(self) -> str:
        return ",".join(map(str, self.sizes))

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.least, self.optimum, self.most


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Options that determine an engine, with its encoder and the version of TensorRT.

    Attributes:
        target: GPU it is compiled for.
        precision: Of its products; the rest is fp32.
        profile: Batch sizes.
    """

    target: Gpu
    precision: Half = "fp16"
    profile: Profile = Profile(1, 4, 8)


@dataclass(frozen=True, slots=True)
class Engine:
    """A compiled engine on disk.

    Attributes:
        file: Of the engine.
        facts: Contents of the JSON file beside it.
        built: Whether it was compiled just now, rather than found.
    """

    file: Path
    facts: dict[str, Any]
    built: bool


class GateReport(Protocol):
    """The part of the gate's report that publishing needs; see samserve.variants.gate.judge."""

    @property
    def passed(self) -> bool: ...

    def as_json(self) -> dict[str, Any]: ...


def build(
    bundle: Bundle,
    spec: EngineSpec,
    compiler: Compiler,
    on_progress: Callable[[str], None] = lambda _: None,
) -> Engine:
    """Compile a bundle's encoder, unless that engine exists.

    If several processes ask for the same engine, one compiles it and the others wait.

    Args:
        bundle: Must be writable.
        spec: What to compile.
        compiler: An installed TensorRT.
        on_progress: Receives the name of each step.

    Raises:
        NoCompiler: The compiler does not support the target.
        EngineRefused: The compiler rejects the encoder.
    """
    spec = replace(spec, target=compiler.resolve_target(spec.target))
    folder = bundle.path / ENGINES
    folder.mkdir(exist_ok=True)
    onnx_digest = encoder_digest(bundle)
    file = folder / file_name(spec, compiler, onnx_digest)

    built = False
    with locked(folder, on_progress):  # also because TensorRT times kernels on the GPU
        if not file.exists():
            with TemporaryDirectory(dir=folder) as work:
                on_progress(f"writing the encoder's graph in {spec.precision}")
                graph = write_mixed(bundle.encoder, spec.precision, Path(work))
                on_progress(f"compiling for {spec.target}")
                _compile(graph, spec, compiler, file, onnx_digest)
            built = True

    return Engine(file, read_facts(_facts_file(file)), built)


def published_variant(bundle: Bundle, engine: Engine) -> str | None:
    """Return the name of the variant that already contains this engine, or None."""
    name = _variant_name(engine)
    file = bundle.path / VARIANTS / name / FACTS
    if file.exists() and read_facts(file)["sha256"] == engine.facts["sha256"]:
        return name
    return None


def publish_engine(bundle: Bundle, engine: Engine, report: GateReport) -> Path:
    """Turn an engine into a variant, replacing an earlier one of the same name.

    Returns:
        The variant's folder.

    Raises:
        EngineRefused: The engine has not passed the gate, or Triton cannot run it.
    """
    facts = engine.facts
    if facts["compiler"] != STANDARD:
        raise EngineRefused(
            f"{engine.file.name} was compiled by {facts['compiler']}; "
            "Triton runs plans of TensorRT only"
        )
    if not report.passed:
        raise EngineRefused(f"{engine.file.name} has not passed the gate; it is not published")

    # Complete the new variant beside the old one, then replace it.
    name = _variant_name(engine)
    work = bundle.path / ENGINES / f"{name}.variant"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    (work / PLAN).hardlink_to(engine.file)
    variant_facts = {"backend": TENSORRT, "model": PLAN, **facts, "gate": report.as_json()}
    write_variant(work, bundle.name, bundle.facts["preprocessing"], variant_facts)

    folder = bundle.path / VARIANTS / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(exist_ok=True)
    return work.rename(folder)


def file_name(spec: EngineSpec, compiler: Compiler, onnx_digest: str) -> str:
    """Return a file name that contains everything an engine depends on."""
    batch = "-".join(map(str, spec.profile.sizes))
    by = f"{compiler.kind}-{compiler.version}"
    suffix = "plan" if compiler.serves else "check"
    return f"{spec.target.slug}-{by}-{onnx_digest}-{spec.precision}-batch-{batch}.{suffix}"


def encoder_digest(bundle: Bundle) -> str:
    """Return 12 hexadecimal digits that depend on the encoder's graph and all its weights."""
    files = {
        name: file["sha256"]
        for name, file in bundle.facts["files"].items()
        if name.startswith(ENCODER)
    }
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:12]


def _variant_name(engine: Engine) -> str:
    return f"{engine.facts['precision']}-{engine.facts['target']}"


def write_mixed(source: Path, precision: Half, folder: Path) -> Path:
    """Write a bundle's graph in mixed precision to a folder.

    The weights go to a file of their own; in one file, ViT-H's would need three times the memory.

    Raises:
        EngineRefused: It is no graph, or an unsupported one.
    """
    graph = folder / source.name
    try:
        exported = onnx.load(source, load_external_data=False)
        model = to_mixed_precision(exported, precision, source.parent)
    except (DecodeError, ValueError) as error:
        raise EngineRefused(f"{source} is not a valid graph: {error}") from error
    onnx.save(model, graph, save_as_external_data=True, location=WEIGHTS)
    return graph


def _compile(
    graph: Path, spec: EngineSpec, compiler: Compiler, file: Path, onnx_digest: str
) -> None:
    """Compile to `file`. The facts are written first, so that `file` is complete once it exists."""
    cache = file.parent / f"{spec.target.slug}-{compiler.version}.timing"
    started = time.monotonic()
    compiled = compiler.compile(
        graph,
        spec.target,
        batch=spec.profile.sizes,
        timing_cache=cache.read_bytes() if cache.exists() else b"",
    )
    seconds = time.monotonic() - started

    part = file.with_suffix(".part")
    part.write_bytes(compiled.plan)
    facts = {
        "compiler": compiler.kind,
        "tensorrt_version": compiler.version,
        "target": spec.target.slug,
        "gpu": spec.target.gpu,
        "compute_capability": spec.target.capability,
        "onnx_digest": onnx_digest,
        "precision": spec.precision,
        "profile": list(spec.profile.sizes),
        "bytes": part.stat().st_size,
        "sha256": sha256_of(part),
        "activation_bytes": compiled.activations,
        "seconds": round(seconds, 1),
        "layers": count_types(compiled.layers),
    }
    _facts_file(file).write_text(json.dumps(facts, indent=1) + "\n")
    if compiled.timing_cache:
        cache.write_bytes(compiled.timing_cache)
    part.rename(file)


def _facts_file(file: Path) -> Path:
    return file.with_suffix(".json")
