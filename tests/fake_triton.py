"""Triton's gRPC interface, as far as the encoder uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc.aio
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as rpc


@dataclass
class FakeTriton(rpc.GRPCInferenceServiceServicer):
    """Serves models by name, each READY or not.

    Attributes:
        foreign: Models without samserve's parameters.
        told: The metadata of the last inference call.
        in_queue: Its time limit in the queue, in microseconds.
        seconds: How long an inference takes.
        encode: Returns the embedding of an inference's inputs, fp16; zeros by default.
    """

    ready: dict[str, bool] = field(
        default_factory=lambda: {"nano": True, "twin": True, "foreign": True}
    )
    version: str = "1"
    asked: int = 0
    inferred: int = 0
    told: dict[str, str] = field(default_factory=dict)
    in_queue: int = 0
    seconds: float = 0
    encode: Callable[[list[bytes]], np.ndarray] | None = None

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: grpc.aio.ServicerContext
    ) -> pb.RepositoryIndexResponse:
        self.asked += 1
        index = pb.RepositoryIndexResponse
        states = {True: "READY", False: "UNAVAILABLE"}
        return index(
            models=[
                index.ModelIndex(name=name, state=states[up]) for name, up in self.ready.items()
            ]
        )

    async def ModelConfig(
        self, request: pb.ModelConfigRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelConfigResponse:
        answer = pb.ModelConfigResponse()
        answer.config.name = request.name
        if not self.ready[request.name]:
            await context.abort(
                grpc.StatusCode.UNAVAILABLE, f"{request.name} has no available versions"
            )
        if request.name != "foreign":
            told = {
                "bundle": request.name,
                "model_version": f"{request.name}-{self.version}",
                "frame": "1024",
                "resize": "longest",
                "outputs": '["embedding"]',
                "variant": "fp32",
                "backend": "onnxruntime",
            }
            for key, value in told.items():
                answer.config.parameters[key].string_value = value
        return answer

    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelInferResponse:
        self.inferred += 1
        self.told = {key: str(value) for key, value in context.invocation_metadata()}
        self.in_queue = request.parameters["timeout"].int64_param
        await asyncio.sleep(self.seconds)
        if self.encode is None:
            embedding = np.zeros((256, 64, 64), np.float16)
        else:
            embedding = await asyncio.to_thread(self.encode, list(request.raw_input_contents))
        answer = pb.ModelInferResponse(raw_output_contents=[embedding.tobytes()])
        answer.outputs.add(name="embedding", datatype="FP16", shape=[1, 256, 64, 64])
        return answer
