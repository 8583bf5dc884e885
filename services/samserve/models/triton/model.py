"""An encoder in Triton's Python backend: every batch that Triton's scheduler gathers is one ONNX Runtime call.

Triton loads this file from the model repository; it is not imported by samserve. Tensors cross by DLPack: it copies
nothing, and the backend's own numpy bridge (in Triton 2.51) misreads arrays of numpy 2.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What Triton's Python backend looks for."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Load the encoder named by the model's parameters."""
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters["threads"])
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(parameters["encoder"], options, ["CPUExecutionProvider"])
        self._inputs = [entry.name for entry in self._session.get_inputs()]
        self._outputs = [entry.name for entry in self._session.get_outputs()]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests of one batch."""
        rows = [[np.from_dlpack(pb_utils.get_input_tensor_by_name(r, name)) for name in self._inputs] for r in requests]
        batch = [np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in zip(*rows, strict=True)]
        answers = self._session.run(self._outputs, dict(zip(self._inputs, batch, strict=True)))
        cuts = np.cumsum([len(row[0]) for row in rows])[:-1]
        shares = zip(*(np.split(answer, cuts) for answer in answers), strict=True)
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor.from_dlpack(name, part) for name, part in zip(self._outputs, share, strict=True)]
            )
            for share in shares
        ]
