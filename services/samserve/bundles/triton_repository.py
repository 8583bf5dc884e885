"""Writes the model repository that Triton serves from: one model a bundle, by its name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from samserve.bundles.bundle import Bundle
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
    inputs {{ key: "image" value {{ data_type: TYPE_UINT8 dims: [ {frame}, {frame}, 3 ] zero_data: true }} }}
    inputs {{ key: "valid" value {{ data_type: TYPE_INT32 dims: [ 2 ] zero_data: true }} }}
  }}"""
_PARAMETER = "parameters {{ key: {key} value {{ string_value: {value} }} }}"


class UnprovenVariant(ValueError):
    """A variant that has not passed the gate; the message says why."""


@dataclass(frozen=True, slots=True)
class TritonOptions:
    """threads: of one encoder on the CPU; max_batch: there, as an engine has its own; instances: of an engine, on each
    GPU; delay_us: microseconds that a batch waits at most for company; queue: images that wait at most.
    """

    threads: int
    max_batch: int = 8
    instances: int = 1
    delay_us: int = 10_000
    queue: int = 128


def write_repository(bundles: Sequence[Bundle], folder: Path, options: TritonOptions) -> Path:
    """Write a model for each bundle, run as its variant. Returns the folder for Triton. Raises UnprovenVariant."""
    for bundle in bundles:
        check_passed(bundle)
    for bundle in bundles:
        write_model(bundle, folder, options)
    return folder


def check_passed(bundle: Bundle) -> None:
    """Raise UnprovenVariant unless the bundle is run as it was exported, or the gate has found its masks as good."""
    gate = bundle.variant.facts.get("gate", {})
    if bundle.variant.name != EXPORTED and gate.get("passed") is not True:
        model = f"{bundle.name}:{bundle.variant.name}"
        reasons = "; ".join(gate.get("reasons", [])) or "it has not been through it"
        raise UnprovenVariant(
            f"{model} has not passed the gate: {reasons}; try `samserve models verify {model}`"
        )


def write_model(bundle: Bundle, folder: Path, options: TritonOptions) -> None:
    """Write `folder`/NAME: a TensorRT plan on the GPUs, or Triton's Python backend with a runtime for the CPU.

    The parameters tell whoever asks Triton for the model's configuration what it runs.
    """
    version = folder / bundle.name / "1"
    version.mkdir(parents=True, exist_ok=True)
    if bundle.variant.backend == TENSORRT:
        _link(bundle.variant.model, version / "model.plan")
        config = _engine_config(bundle, options)
    else:
        shutil.copyfile(Path(__file__).with_name("triton_model.py"), version / "model.py")
        config = _cpu_config(bundle, options)
    (folder / bundle.name / "config.pbtxt").write_text(config)


def _engine_config(bundle: Bundle, options: TritonOptions) -> str:
    """Neither eager batching, which begins a batch before the GPU is free and so makes smaller ones, to save a copy of
    3 MiB an image beside a run of many milliseconds; nor CUDA graphs, which save launches where kernels are short.
    """
    _, best, most = bundle.variant.facts["profile"]
    instances = f"count: {options.instances} kind: KIND_GPU"
    return _config(bundle, options, 'platform: "tensorrt_plan"', instances, most, {1, best}, {})


def _cpu_config(bundle: Bundle, options: TritonOptions) -> str:
    runs = {
        "precision": bundle.variant.precision,
        "encoder": str(bundle.variant.model.resolve()),  # read in place, with the weights beside it
        "threads": str(options.threads),
    }
    return _config(
        bundle,
        options,
        'backend: "python"',
        "count: 1 kind: KIND_CPU",
        options.max_batch,
        {1},
        runs,
    )


def _config(
    bundle: Bundle,
    options: TritonOptions,
    backend: str,
    instances: str,
    max_batch: int,
    warm: set[int],
    runs: dict[str, str],
) -> str:
    """warm: batch sizes that are run before the model counts as ready; runs: parameters besides those of the bundle."""
    frame = bundle.frame.side
    facts = {
        "bundle": bundle.name,
        "model_version": bundle.model_version,
        "frame": str(frame),
        "resize": bundle.facts["preprocessing"]["resize"],
        "outputs": json.dumps(list(bundle.embedding)),
        "variant": bundle.variant.name,
        "backend": bundle.variant.backend,
        **runs,
    }
    return _CONFIG.format(
        name=bundle.name,
        backend=backend,
        max_batch=max_batch,
        frame=frame,
        outputs=",\n".join(
            _OUTPUT.format(name=name, dims=", ".join(map(str, shape)))
            for name, shape in bundle.embedding.items()
        ),
        instances=instances,
        delay=options.delay_us,
        queue=options.queue,
        warmups=",\n".join(_WARMUP.format(batch=batch, frame=frame) for batch in sorted(warm)),
        parameters="\n".join(
            _PARAMETER.format(key=json.dumps(key), value=json.dumps(value))
            for key, value in facts.items()
        ),
    )


def _link(file: Path, place: Path) -> None:
    """The file at another place too; copied where that is on another file system."""
    place.unlink(missing_ok=True)
    try:
        os.link(file.resolve(), place)
    except OSError:
        shutil.copyfile(file, place)
