"""Writes the model repository that Triton serves from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from samserve.models.bundle import Bundle

ENCODER = "sam_encoder"

_CONFIG = """\
name: "{name}"
backend: "python"
max_batch_size: {max_batch}
input [
  {{ name: "image" data_type: TYPE_UINT8 dims: [ {frame}, {frame}, 3 ] }},
  {{ name: "valid" data_type: TYPE_INT32 dims: [ 2 ] }}
]
output [
{outputs}
]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
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
  {{
    name: "blank"
    batch_size: 1
    inputs {{ key: "image" value {{ data_type: TYPE_UINT8 dims: [ {frame}, {frame}, 3 ] zero_data: true }} }}
    inputs {{ key: "valid" value {{ data_type: TYPE_INT32 dims: [ 2 ] zero_data: true }} }}
  }}
]
{parameters}
"""


def write_repository(
    bundle: Bundle, folder: Path, threads: int, max_batch: int = 8, delay_us: int = 10_000, queue: int = 128
) -> Path:
    """Write `folder`/sam_encoder for a bundle, run on the CPU in Triton's Python backend by what its variant names.

    A batch waits at most `delay_us` for company. The parameters tell whoever asks Triton for the model's configuration
    what it runs. Returns the folder to give to Triton.
    """
    model = folder / ENCODER
    (model / "1").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(__file__).parent / "model.py", model / "1" / "model.py")
    outputs = ",\n".join(
        f'  {{ name: "{name}" data_type: TYPE_FP16 dims: [ {", ".join(map(str, shape))} ] }}'
        for name, shape in bundle.embedding.items()
    )
    facts = {
        "bundle": bundle.name,
        "model_version": bundle.model_version,
        "frame": str(bundle.frame.side),
        "resize": bundle.facts["preprocessing"]["resize"],
        "outputs": json.dumps(list(bundle.embedding)),
        "encoder": str(bundle.variant.model.resolve()),
        "runtime": bundle.variant.backend,
        "precision": bundle.variant.precision,
        "threads": str(threads),
    }
    parameters = "\n".join(
        f"parameters {{ key: {json.dumps(key)} value {{ string_value: {json.dumps(value)} }} }}"
        for key, value in facts.items()
    )
    config = _CONFIG.format(
        name=ENCODER,
        frame=bundle.frame.side,
        outputs=outputs,
        parameters=parameters,
        max_batch=max_batch,
        delay=delay_us,
        queue=queue,
    )
    (model / "config.pbtxt").write_text(config)
    return folder
