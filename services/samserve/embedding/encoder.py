"""The image encoder, asked over Triton: the only place that speaks to it."""

from __future__ import annotations

import asyncio
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

from samserve.core.errors import DeadlinePassed, ModelNotFound, Overloaded, Unavailable
from samserve.core.geometry import STRETCH, Frame
from samserve.core.image import FramedImage
from samserve.embedding.admission import Priority
from samserve.infra.metrics import MODEL_INFO
from samserve.infra.tracing import Kind, inject_headers, span
from samserve.wire.metadata import EVERY_SERVER

CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # a Triton that is back is noticed within a second
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    EVERY_SERVER,
]
SHORTEST = 0.001  # seconds to wait for an answer; 0 would mean for ever
SPEC_AGE = 10.0  # seconds for which Triton's word on what it serves is believed
SPEC_TIMEOUT = 1.0  # seconds; a Triton that hangs must not hold up callers whose image is known


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """What Triton says of an encoder it serves; frame: what it sees; outputs: the tensors of an embedding; variant and
    backend: how it is run, empty if Triton's repository does not say.
    """

    name: str
    model_version: str
    frame: Frame
    outputs: tuple[str, ...]
    variant: str
    backend: str


class TritonEncoder:
    """Framed images to embeddings, by any of the models that Triton serves. Triton gathers concurrent calls for a model
    into batches; we send one image a call.
    """

    def __init__(self, url: str, timeout: float, default: str) -> None:
        """default: the model meant by an empty name."""
        self._client = InferenceServerClient(url, channel_args=CHANNEL)
        self._url, self._timeout, self._default = url, timeout, default
        self._specs: dict[str, EncoderSpec | None] = {}
        self._loaded: frozenset[EncoderSpec] = frozenset()
        self._asked = 0.0

    async def spec(self, model: str) -> EncoderSpec:
        """What is known of a model; empty: the default. Raises ModelNotFound, and Unavailable for one that has not been
        loaded since this process began.
        """
        specs, name = await self._known(), model or self._default
        if name not in specs:
            raise ModelNotFound(name, sorted(specs))
        if (spec := specs[name]) is None:
            raise Unavailable(
                f"the encoder (Triton at {self._url}) has not loaded the model {name}"
            )
        return spec

    async def _known(self) -> dict[str, EncoderSpec | None]:
        """What Triton serves, asked anew when the answer is old; while Triton is away the last answer stands."""
        if not self._specs or time.monotonic() - self._asked > SPEC_AGE:
            self._asked = (
                time.monotonic()
            )  # callers meanwhile, and after a failure, have the last answer
            try:
                self._specs = await self._ask()
            except Unavailable:
                if not self._specs:
                    raise
        return self._specs

    async def _ask(self) -> dict[str, EncoderSpec | None]:
        """The models in Triton's repository. Of one that is not loaded what was known of it stands, so that its cached
        images are answered.
        """
        with self._asking():
            index = await self._client.get_model_repository_index(
                as_json=True, client_timeout=SPEC_TIMEOUT
            )
        ready = {entry["name"]: entry.get("state") == "READY" for entry in index.get("models", [])}
        specs = await asyncio.gather(*(self._ask_for(name) for name in ready if ready[name]))
        loaded = frozenset(spec for spec in specs if spec is not None)
        self._tell(loaded)
        unloaded = {name: self._specs.get(name) for name in ready if not ready[name]}
        return {**unloaded, **{spec.name: spec for spec in loaded}}

    def _tell(self, loaded: frozenset[EncoderSpec]) -> None:
        """Have the metrics say what is loaded, and that what was loaded before and has gone is not."""
        for spec in self._loaded | loaded:
            labels = (spec.name, spec.model_version, spec.variant, spec.backend)
            MODEL_INFO.labels(*labels).set(spec in loaded)
        self._loaded = loaded

    async def _ask_for(self, name: str) -> EncoderSpec | None:
        """What Triton says of a model that is ready; None: it is none of ours."""
        with self._asking():
            answer = await self._client.get_model_config(
                name, as_json=True, client_timeout=SPEC_TIMEOUT
            )
        facts = {
            key: value.get("string_value", "")
            for key, value in answer["config"].get("parameters", {}).items()
        }
        if "bundle" not in facts:
            return None
        frame = Frame(int(facts["frame"]), facts["resize"] == STRETCH)
        outputs = tuple(json.loads(facts["outputs"]))
        return EncoderSpec(
            name,
            facts["model_version"],
            frame,
            outputs,
            facts.get("variant", ""),
            facts.get("backend", ""),
        )

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            with triton_errors(self._url):
                yield
        except DeadlinePassed as late:  # a deadline of ours, not of the caller's
            raise Unavailable(f"the encoder (Triton at {self._url}) does not answer") from late

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
        with span("triton infer", Kind.CLIENT), triton_errors(self._url):
            answer = await self._client.infer(
                spec.name,
                [pixels, valid],
                outputs=[InferRequestedOutput(name) for name in spec.outputs],
                priority=priority,
                timeout=int(patience * 1e6),  # of the queue, in microseconds
                client_timeout=patience,
                headers=dict(inject_headers()),
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
        raise Unavailable(
            f"the encoder (Triton at {url}) cannot be reached: {problem}"
        ) from problem
