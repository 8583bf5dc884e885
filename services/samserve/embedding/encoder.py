"""The image encoder, asked over Triton: the only place that speaks to it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from samserve.core.errors import DeadlinePassed, Overloaded, Unavailable
from samserve.core.geometry import STRETCH, Frame
from samserve.core.image import FramedImage
from samserve.embedding.admission import Priority

ENCODER = "sam_encoder"  # its name in Triton's model repository
CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # a Triton that is back is noticed within a second
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]
SHORTEST = 0.001  # seconds to wait for an answer; 0 would mean for ever
SPEC_AGE = 10.0  # seconds for which Triton's word on what it serves is believed
SPEC_TIMEOUT = 1.0  # seconds; a Triton that hangs must not hold up callers whose image is known


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """What Triton says of the encoder it serves; frame: what it sees; outputs: the tensors of an embedding."""

    name: str
    model_version: str
    frame: Frame
    outputs: tuple[str, ...]


class TritonEncoder:
    """Framed images to embeddings. Triton gathers concurrent calls into batches; we send one image a call."""

    def __init__(self, url: str, timeout: float) -> None:
        self._client = InferenceServerClient(url, channel_args=CHANNEL)
        self._url, self._timeout = url, timeout
        self._spec: EncoderSpec | None = None
        self._asked = 0.0

    async def spec(self) -> EncoderSpec:
        """What Triton serves, asked anew when the answer is old; while Triton is away the last answer stands."""
        if self._spec is None or time.monotonic() - self._asked > SPEC_AGE:
            self._asked = time.monotonic()  # callers meanwhile, and after a failure, have the last answer
            try:
                self._spec = await self._ask()
            except Unavailable:
                if self._spec is None:
                    raise
        return self._spec

    async def _ask(self) -> EncoderSpec:
        try:
            with triton_errors(self._url):
                answer = await self._client.get_model_config(ENCODER, as_json=True, client_timeout=SPEC_TIMEOUT)
        except DeadlinePassed as late:  # a deadline of ours, not of the caller's
            raise Unavailable(f"the encoder (Triton at {self._url}) does not answer") from late
        config = answer["config"]
        facts = {name: value["string_value"] for name, value in config["parameters"].items()}
        outputs = tuple(json.loads(facts["outputs"]))
        return EncoderSpec(
            facts["bundle"], facts["model_version"], Frame(int(facts["frame"]), facts["resize"] == STRETCH), outputs
        )

    async def encode(
        self, spec: EncoderSpec, image: FramedImage, priority: Priority, seconds: float
    ) -> dict[str, NDArray[np.float16]]:
        """uint8 [frame, frame, 3] and its valid size -> fp16 tensors, for SAM {"embedding": [256, 64, 64]}.

        seconds: after which nobody waits any more; Triton drops what is still queued then.
        Raises Overloaded, DeadlinePassed, Unavailable.
        """
        patience = max(min(self._timeout, seconds), SHORTEST)
        pixels = InferInput("image", [1, *image.pixels.shape], "UINT8")
        pixels.set_data_from_numpy(image.pixels[None])
        valid = InferInput("valid", [1, 2], "INT32")
        valid.set_data_from_numpy(np.array([[image.valid.height, image.valid.width]], np.int32))
        with triton_errors(self._url):
            answer = await self._client.infer(
                ENCODER,
                [pixels, valid],
                outputs=[InferRequestedOutput(name) for name in spec.outputs],
                priority=priority,
                timeout=int(patience * 1e6),  # of the queue, in microseconds
                client_timeout=patience,
            )
        return {name: answer.as_numpy(name)[0] for name in spec.outputs}

    async def close(self) -> None:
        await self._client.close()


@contextmanager
def triton_errors(url: str) -> Iterator[None]:
    """Translate what tritonclient raises into our own errors."""
    try:
        yield
    except InferenceServerException as problem:
        code, text = str(problem.status()), problem.message()
        if "DEADLINE_EXCEEDED" in code:
            raise DeadlinePassed("encode") from problem
        if "exceeds maximum queue size" in text.lower():
            raise Overloaded("the encoder's queue") from problem
        raise Unavailable(f"the encoder (Triton at {url}) does not answer: {text}") from problem
    except (grpc.RpcError, OSError) as problem:
        raise Unavailable(f"the encoder (Triton at {url}) cannot be reached: {problem}") from problem
