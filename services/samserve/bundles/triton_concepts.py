"""Writes the Triton models of a bundle's concept head: NAME-concepts and NAME-text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from samserve.bundles.bundle import CONCEPTS, TEXT, Bundle, ConceptFacts

CONCEPTS_SUFFIX, TEXT_SUFFIX = "-concepts", "-text"
MOST_PHRASES = 16  # in a batch of the text encoder
PHRASE_DELAY_US = 2_000  # that a batch of phrases waits for more

_CONCEPTS_CONFIG = """\
name: "{name}"
backend: "python"
max_batch_size: 0
input [
  {{ name: "trunk" data_type: TYPE_FP16 dims: [ 1, {trunk} ] }},
  {{ name: "text" data_type: TYPE_FP16 dims: [ -1, {tokens}, {width} ] }},
  {{ name: "text_mask" data_type: TYPE_FP32 dims: [ -1, {tokens} ] }},
  {{ name: "examples" data_type: TYPE_FP32 dims: [ -1, -1, 4 ] }},
  {{ name: "example_labels" data_type: TYPE_INT32 dims: [ -1, -1 ] }}
]
output [
  {{ name: "scores" data_type: TYPE_FP32 dims: [ -1, {top} ] }},
  {{ name: "presence" data_type: TYPE_FP32 dims: [ -1 ] }},
  {{ name: "boxes" data_type: TYPE_FP32 dims: [ -1, {top}, 4 ] }},
  {{ name: "masks" data_type: TYPE_FP16 dims: [ -1, {top}, {side}, {side} ] }}
]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
{parameters}
"""
_TEXT_CONFIG = """\
name: "{name}"
backend: "python"
max_batch_size: {most}
input [ {{ name: "ids" data_type: TYPE_INT32 dims: [ {tokens} ] }} ]
output [ {{ name: "text" data_type: TYPE_FP16 dims: [ {tokens}, {width} ] }} ]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
dynamic_batching {{ max_queue_delay_microseconds: {delay} }}
{parameters}
"""
_PARAMETER = "parameters {{ key: {key} value {{ string_value: {value} }} }}"


def part_names(model: str) -> tuple[str, str]:
    """Return the names of the two Triton models of this model's concept head."""
    return f"{model}{CONCEPTS_SUFFIX}", f"{model}{TEXT_SUFFIX}"


def write_concept_models(bundle: Bundle, facts: ConceptFacts, folder: Path, threads: int) -> None:
    """Write both models, run by Triton's Python backend on the CPU.

    Args:
        bundle: With a concept head.
        facts: Of the head.
        folder: Triton's model repository.
        threads: Of each on the CPU.
    """
    (trunk,) = bundle.trunk.values()
    concepts, text = part_names(bundle.name)
    sizes = {"tokens": facts.tokens, "width": facts.width}

    _write(
        folder / concepts,
        _CONCEPTS_CONFIG.format(
            name=concepts,
            trunk=", ".join(map(str, trunk)),
            top=facts.top,
            side=bundle.low_res,
            parameters=_parameters(bundle, facts, CONCEPTS, threads),
            **sizes,
        ),
    )
    _write(
        folder / text,
        _TEXT_CONFIG.format(
            name=text,
            most=MOST_PHRASES,
            delay=PHRASE_DELAY_US,
            parameters=_parameters(bundle, facts, TEXT, threads),
            **sizes,
        ),
    )


def describe_concepts(bundle: Bundle, facts: ConceptFacts) -> str:
    """Return what Triton's clients need to know of a head, for a parameter of the encoder."""
    return json.dumps(
        {
            "version": facts.version,
            "top": facts.top,
            "tokens": facts.tokens,
            "words": facts.words,
            "side": bundle.low_res,
        }
    )


def _write(folder: Path, config: str) -> None:
    version = folder / "1"
    version.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(__file__).with_name("triton_model.py"), version / "model.py")
    (folder / "config.pbtxt").write_text(config)


def _parameters(bundle: Bundle, facts: ConceptFacts, graph: str, threads: int) -> str:
    # Without a parameter "bundle": these are parts of a model, and no encoder.
    values = {
        "head": facts.version,
        "backend": "onnxruntime",
        "precision": "fp32",
        "encoder": str((bundle.path / graph).resolve()),
        "threads": str(threads),
    }
    return "\n".join(
        _PARAMETER.format(key=json.dumps(key), value=json.dumps(value))
        for key, value in values.items()
    )
