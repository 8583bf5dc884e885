"""A graph in Triton's Python backend: each batch is one call of a CPU runtime.

Triton loads this file from the model repository; samserve does not import it. Tensors are exchanged
by DLPack, which copies nothing. The backend's numpy functions (in Triton 2.51) misread arrays of
numpy 2.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

Run = Callable[[dict[str, Any]], list[Any]]  # inputs of a batch by name -> outputs in order


def _onnxruntime(encoder: str, outputs: list[str], threads: int, precision: str) -> Run:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(encoder, options, ["CPUExecutionProvider"])
    return lambda batch: session.run(outputs, batch)


def _openvino(encoder: str, outputs: list[str], threads: int, precision: str) -> Run:
    import openvino

    hint = {"bf16": "bf16", "fp32": "f32"}[precision]
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }
    model = openvino.Core().compile_model(encoder, "CPU", settings)

    def run(batch: dict[str, Any]) -> list[Any]:
        results = model(batch)
        return [results[name] for name in outputs]

    return run


RUNTIMES = {"onnxruntime": _onnxruntime, "openvino": _openvino}


class TritonPythonModel:
    """The class that Triton's Python backend looks for by name."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Load the encoder and the runtime that the model's parameters name."""
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}

        self._inputs = [entry["name"] for entry in config["input"]]
        self._outputs = [entry["name"] for entry in config["output"]]
        self._batched = config.get("max_batch_size", 0) > 0
        load = RUNTIMES[parameters["backend"]]
        self._run = load(
            parameters["encoder"],
            self._outputs,
            int(parameters["threads"]),
            parameters["precision"],
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run the requests of one batch together and return a response for each.

        A model without batches runs them one by one; one that fails does so alone.
        """
        if not self._batched:
            return [self._execute_alone(request) for request in requests]

        # Join the requests' tensors into one batch.
        rows = [
            [np.from_dlpack(pb_utils.get_input_tensor_by_name(r, name)) for name in self._inputs]
            for r in requests
        ]
        batch = [
            np.concatenate(parts) if len(parts) > 1 else parts[0]
            for parts in zip(*rows, strict=True)
        ]
        results = self._run(dict(zip(self._inputs, batch, strict=True)))

        # Split the results as the requests were joined.
        cuts = np.cumsum([len(row[0]) for row in rows])[:-1]
        shares = zip(*(np.split(result, cuts) for result in results), strict=True)
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor.from_dlpack(name, part)
                    for name, part in zip(self._outputs, share, strict=True)
                ]
            )
            for share in shares
        ]

    def _execute_alone(self, request: Any) -> Any:
        inputs = {
            name: np.from_dlpack(pb_utils.get_input_tensor_by_name(request, name))
            for name in self._inputs
        }
        try:
            results = self._run(inputs)
        except Exception as problem:
            return pb_utils.InferenceResponse([], pb_utils.TritonError(str(problem)))
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor.from_dlpack(name, result)
                for name, result in zip(self._outputs, results, strict=True)
            ]
        )
