"""Writes the model repository that Triton serves from, with one model for each bundle."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from samserve.bundles.bundle import Bundle
from samserve.bundles.triton_concepts import (
    describe_concepts,
    part_names,
    write_concept_models,
)
from samserve.bundles.variant import EXPORTED, TENSORRT

_CONFIG = """\
name: "{name}"
{backend}
max_batch_size: {max_batch}
input [
  {{ name: "image" data_type: TYPE_UINT8 dims: [ {frame}, {frame}, 3 ] }},
  {{ name: "valid" data_type: TYPE_INT32 dims: [ 2 ] }}
]
output [
{outputs}
]
instance_group [ {{ {instances} }} ]
dynamic_batching {{
  max_queue_delay_microseconds: {delay}
  priority_levels: 2
  default_priority_level: 1
  default_queue_policy {{
    timeout_action: REJECT
    allow_timeout_override: true
    max_queue_size: {queue}
  }}
}}
model_warmup [
{warmups}
]
{parameters}
"""
_OUTPUT = '  {{ name: "{name}" data_type: TYPE_FP16 dims: [ {dims} ] }}'
_WARMUP = """\
  {{
    name: "blank {batch}"
    batch_size: {batch}
    inputs {{
      key: "image" value {{ data_type: TYPE_UINT8 dims: [ {frame}, {frame}, 3 ] zero_data: true }}
    }}
    inputs {{ key: "valid" value {{ data_type: TYPE_INT32 dims: [ 2 ] zero_data: true }} }}
  }}"""
_PARAMETER = "parameters {{ key: {key} value {{ string_value: {value} }} }}"


class UnprovenVariant(ValueError):
    """Variant that has not passed the gate; the message gives the reasons."""


@dataclass(frozen=True, slots=True)
class TritonOptions:
    """How Triton runs encoders.

    Attributes:
        threads: Of one encoder on the CPU.
        max_batch: Images in a batch on the CPU; an engine brings its own limit.
        instances: Copies of an engine on each GPU.
        delay_us: Microseconds that a batch waits for more images.
        queue: Images that may wait.
    """

    threads: int
    max_batch: int = 8
    instances: int = 1
    delay_us: int = 10_000
    queue: int = 128


@dataclass(frozen=True, slots=True)
class _Backend:
    """The part of a model's configuration that depends on its backend.

    Attributes:
        entry: Line that names the backend or platform.
        instances: Contents of the instance group.
        max_batch: Images in a batch.
        warm_batches: Batch sizes that run before the model counts as ready.
        parameters: Added to those of the bundle.
    """

    entry: str
    instances: str
    max_batch: int
    warm_batches: set[int]
    parameters: dict[str, str]


def write_repository(bundles: Sequence[Bundle], folder: Path, options: TritonOptions) -> Path:
    """Write a model for each bundle, run as its variant.

    Returns:
        The folder, for Triton's `--model-repository`.

    Raises:
        UnprovenVariant: A variant has not passed the gate; nothing is written.
    """
    for bundle in bundles:
        check_passed(bundle)
    _check_names(bundles)
    for bundle in bundles:
        write_model(bundle, folder, options)
    return folder


def _check_names(bundles: Sequence[Bundle]) -> None:
    """Refuse a model that has the name of a part of another. Raises UnprovenVariant."""
    names = {bundle.name for bundle in bundles}
    for bundle in bundles:
        parts = part_names(bundle.name) if bundle.concepts is not None else ()
        if taken := names.intersection(parts):
            raise UnprovenVariant(
                f"models {bundle.name} and {taken.pop()} cannot be served together: Triton runs "
                f"parts of {bundle.name} under that name; export one under another name"
            )


def check_passed(bundle: Bundle) -> None:
    """Check that the bundle's variant may be served.

    Raises:
        UnprovenVariant: It is not the exported one, and has not passed the gate.
    """
    gate = bundle.variant.facts.get("gate", {})
    if bundle.variant.name == EXPORTED or gate.get("passed") is True:
        return
    model = f"{bundle.name}:{bundle.variant.name}"
    reasons = "; ".join(gate.get("reasons", [])) or "it was never tested"
    raise UnprovenVariant(
        f"{model} has not passed the gate: {reasons}; try `samserve models verify {model}`"
    )


def write_model(bundle: Bundle, folder: Path, options: TritonOptions) -> None:
    """Write `folder`/NAME: a TensorRT plan for GPUs, or Triton's Python backend for CPUs.

    The parameters in the model's configuration tell Triton's clients what it runs.
    """
    version = folder / bundle.name / "1"
    version.mkdir(parents=True, exist_ok=True)
    if bundle.variant.backend == TENSORRT:
        _link(bundle.variant.model, version / "model.plan")
        backend = _engine_backend(bundle, options)
    else:
        shutil.copyfile(Path(__file__).with_name("triton_model.py"), version / "model.py")
        backend = _cpu_backend(bundle, options)

    (folder / bundle.name / "config.pbtxt").write_text(_config(bundle, backend, options))
    if bundle.concepts is not None:
        write_concept_models(bundle, bundle.concepts, folder, options.threads)


def _engine_backend(bundle: Bundle, options: TritonOptions) -> _Backend:
    """Return the settings of an engine. Two options of Triton are left off on purpose.

    Eager batching starts a batch before the GPU is free, so batches become smaller; it saves only a
    copy of 3 MiB an image. CUDA graphs save launches, which matters only where kernels are short.
    """
    _, optimum, most = bundle.variant.facts["profile"]
    return _Backend(
        entry='platform: "tensorrt_plan"',
        instances=f"count: {options.instances} kind: KIND_GPU",
        max_batch=most,
        warm_batches={1, optimum},
        parameters={},
    )


def _cpu_backend(bundle: Bundle, options: TritonOptions) -> _Backend:
    # The encoder is read in place, because its weights may lie in a second file.
    parameters = {
        "precision": bundle.variant.precision,
        "encoder": str(bundle.variant.model.resolve()),
        "threads": str(options.threads),
    }
    return _Backend(
        entry='backend: "python"',
        instances="count: 1 kind: KIND_CPU",
        max_batch=options.max_batch,
        warm_batches={1},
        parameters=parameters,
    )


def _config(bundle: Bundle, backend: _Backend, options: TritonOptions) -> str:
    frame = bundle.frame.side
    parameters = {
        "bundle": bundle.name,
        "model_version": bundle.model_version,
        "frame": str(frame),
        "resize": bundle.facts["preprocessing"]["resize"],
        "outputs": json.dumps(list(bundle.embedding)),
        "variant": bundle.variant.name,
        "backend": bundle.variant.backend,
        **backend.parameters,
    }
    if bundle.concepts is not None:
        parameters["concepts"] = describe_concepts(bundle, bundle.concepts)

    outputs = [
        _OUTPUT.format(name=name, dims=", ".join(map(str, shape)))
        for name, shape in (bundle.embedding | bundle.trunk).items()
    ]
    warmups = [_WARMUP.format(batch=size, frame=frame) for size in sorted(backend.warm_batches)]
    lines = [
        _PARAMETER.format(key=json.dumps(key), value=json.dumps(value))
        for key, value in parameters.items()
    ]
    return _CONFIG.format(
        name=bundle.name,
        backend=backend.entry,
        max_batch=backend.max_batch,
        frame=frame,
        outputs=",\n".join(outputs),
        instances=backend.instances,
        delay=options.delay_us,
        queue=options.queue,
        warmups=",\n".join(warmups),
        parameters="\n".join(lines),
    )


def _link(file: Path, target: Path) -> None:
    """Hard-link a file, or copy it if the target is on another file system."""
    target.unlink(missing_ok=True)
    try:
        os.link(file.resolve(), target)
    except OSError:
        shutil.copyfile(file, target)
