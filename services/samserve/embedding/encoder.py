"""The image encoder, called over Triton: the only module that speaks to it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from samserve.core.arrays import Array, Halves
from samserve.core.embedding import Shape
from samserve.core.errors import DeadlinePassed, ModelNotFound, Overloaded, Unavailable
from samserve.core.family import TRUNK
from samserve.core.geometry import STRETCH, Frame
from samserve.core.image import FramedImage
from samserve.embedding.admission import Priority
from samserve.infra.metrics import MODEL_INFO
from samserve.infra.tracing import Kind, inject_headers, span
from samserve.wire.channel import EVERY_SERVER, proxy_options

CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # a restarted Triton is noticed within a second
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    EVERY_SERVER,
]
SHORTEST_TIMEOUT = 0.001  # seconds; to Triton 0 means no timeout
SPEC_AGE = 10.0  # seconds for which Triton's list of models is trusted
SPEC_TIMEOUT = 1.0  # seconds; a Triton that hangs must not delay cache hits


@dataclass(frozen=True, slots=True)
class ConceptSpec:
    """A model's concept head.

    Attributes:
        version: Of what it finds.
        top: Instances of a concept that it can tell.
        tokens: Of a phrase at most.
        words: Ids of its vocabulary.
        side: Of the low-res logits.
    """

    version: str
    top: int
    tokens: int
    words: int
    side: int


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """An encoder that Triton serves.

    Attributes:
        name: Of the model.
        model_version: Of its embeddings.
        frame: The square that it sees.
        outputs: Names of the tensors that make an embedding.
        shapes: Name and shape of each of them; empty if Triton does not say.
        trunk: Shape of the output that the search for concepts begins with; empty if there is none.
        concepts: Of the model's concept head; None if it knows no concepts.
        variant: How it is run; empty if Triton's repository does not say. Likewise `backend`.
    """

    name: str
    model_version: str
    frame: Frame
    outputs: tuple[str, ...]
    variant: str
    backend: str
    shapes: tuple[tuple[str, Shape], ...] = ()
    trunk: Shape = ()
    concepts: ConceptSpec | None = None


class TritonEncoder:
    """Encodes framed images with any model that Triton serves.

    Each call sends one image. Triton gathers concurrent calls for a model into batches.
    """

    def __init__(self, url: str, timeout: float, default: str) -> None:
        """Create a client.

        Args:
            url: Triton's gRPC address.
            timeout: Seconds for one image.
            default: The model that an empty name means.
        """
        self._client = InferenceServerClient(url, channel_args=[*CHANNEL, *proxy_options(url)])
        self._url = url
        self._timeout = timeout
        self._default = default

        self._specs: dict[str, EncoderSpec | None] = {}  # None: not loaded
        self._loaded: frozenset[EncoderSpec] = frozenset()
        self._asked = 0.0

    async def spec(self, model: str) -> EncoderSpec:
        """Return the facts of a model; an empty name means the default.

        Raises:
            ModelNotFound: Triton has no such model.
            Unavailable: Triton does not answer, or has not loaded the model since this process
                started.
        """
        specs = await self._current_specs()
        name = model or self._default
        if name not in specs:
            raise ModelNotFound(name, sorted(specs))

        spec = specs[name]
        if spec is None:
            raise Unavailable(f"the encoder (Triton at {self._url}) has not loaded model {name!r}")
        return spec

    async def _current_specs(self) -> dict[str, EncoderSpec | None]:
        """Return what Triton serves. The last answer stays valid while Triton is away."""
        if not self._specs or time.monotonic() - self._asked > SPEC_AGE:
            # Set it first: concurrent callers, and those after a failure, use the last answer.
            self._asked = time.monotonic()
            try:
                self._specs = await self._ask_for_specs()
            except Unavailable:
                if not self._specs:
                    raise
        return self._specs

    async def _ask_for_specs(self) -> dict[str, EncoderSpec | None]:
        """Ask Triton for its models.

        An unloaded model keeps the facts that are known, so that its cached images are answered.
        """
        with self._asking():
            index = await self._client.get_model_repository_index(
                as_json=True, client_timeout=SPEC_TIMEOUT
            )
        ready = {entry["name"]: entry.get("state") == "READY" for entry in index.get("models", [])}
        specs = await asyncio.gather(*(self._ask_for_spec(name) for name in ready if ready[name]))
        loaded = frozenset(spec for spec in specs if spec is not None)
        self._publish_metrics(loaded)

        unloaded = {name: self._specs.get(name) for name in ready if not ready[name]}
        return {**unloaded, **{spec.name: spec for spec in loaded}}

    def _publish_metrics(self, loaded: frozenset[EncoderSpec]) -> None:
        """Set the metric of loaded models to 1, and of those that have been unloaded to 0."""
        for spec in self._loaded | loaded:
            labels = (spec.name, spec.model_version, spec.variant, spec.backend)
            MODEL_INFO.labels(*labels).set(spec in loaded)
        self._loaded = loaded

    async def _ask_for_spec(self, name: str) -> EncoderSpec | None:
        """Return the facts of a loaded model, or None if samserve did not write it."""
        with self._asking():
            answer = await self._client.get_model_config(
                name, as_json=True, client_timeout=SPEC_TIMEOUT
            )
        parameters = answer["config"].get("parameters", {})
        facts = {key: value.get("string_value", "") for key, value in parameters.items()}
        if "bundle" not in facts:
            return None
        outputs = tuple(json.loads(facts["outputs"]))
        shapes = {
            output["name"]: tuple(map(int, output["dims"]))
            for output in answer["config"].get("output", [])
        }
        concepts = json.loads(facts.get("concepts", "null"))
        return EncoderSpec(
            name=name,
            model_version=facts["model_version"],
            frame=Frame(int(facts["frame"]), facts["resize"] == STRETCH),
            outputs=outputs,
            variant=facts.get("variant", ""),
            backend=facts.get("backend", ""),
            shapes=tuple((output, shapes[output]) for output in outputs if output in shapes),
            trunk=shapes.get(TRUNK, ()),
            concepts=None if concepts is None else ConceptSpec(**concepts),
        )

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            with triton_errors(self._url):
                yield
        except DeadlinePassed as late:  # SPEC_TIMEOUT, not the caller's deadline
            raise Unavailable(f"the encoder (Triton at {self._url}) does not answer") from late

    async def encode(
        self, spec: EncoderSpec, image: FramedImage, priority: Priority, seconds: float
    ) -> dict[str, Halves]:
        """Run the encoder on one image. A run that has begun ends, also after its callers left.

        Args:
            spec: The model.
            image: Pixels uint8 [frame, frame, 3] and their valid size.
            priority: Order in Triton's queue.
            seconds: Until the latest caller's deadline; Triton then drops the image if it waits.

        Returns:
            fp16 tensors by name, for SAM {"embedding": [256, 64, 64]}; the trunk if there is one.

        Raises:
            Overloaded: Triton's queue is full.
            DeadlinePassed: The time limit for one image passed.
            Unavailable: Triton does not answer.
        """
        in_queue = max(min(self._timeout, seconds), SHORTEST_TIMEOUT)
        valid = np.array([[image.valid.height, image.valid.width]], np.int32)
        answer = await self.infer(
            spec.name,
            {"image": image.pixels[None], "valid": valid},
            (*spec.outputs, *((TRUNK,) if spec.trunk else ())),
            priority=priority,
            timeout=int(in_queue * 1e6),  # microseconds
        )
        return {name: tensor[0] for name, tensor in answer.items()}

    async def infer(
        self, model: str, inputs: Mapping[str, Array], outputs: Sequence[str], **options: Any
    ) -> dict[str, Array]:
        """Run any of Triton's models on tensors by name, and return some outputs.

        Raises:
            Overloaded, DeadlinePassed, Unavailable: As `encode` does.
        """
        given = []
        for name, tensor in inputs.items():
            given.append(InferInput(name, list(tensor.shape), np_to_triton_dtype(tensor.dtype)))
            given[-1].set_data_from_numpy(tensor)

        with span("triton infer", Kind.CLIENT), triton_errors(self._url):
            answer = await self._client.infer(
                model,
                given,
                outputs=[InferRequestedOutput(name) for name in outputs],
                client_timeout=self._timeout,
                headers=dict(inject_headers()),
                **options,
            )
        return {name: answer.as_numpy(name) for name in outputs}

    async def close(self) -> None:
        await self._client.close()


@contextmanager
def triton_errors(url: str) -> Iterator[None]:
    """Translate tritonclient's errors into samserve's."""
    try:
        yield
    except InferenceServerException as error:
        code, text = str(error.status()), error.message()
        if "DEADLINE_EXCEEDED" in code:
            raise DeadlinePassed("encode") from error
        if "exceeds maximum queue size" in text.lower():
            raise Overloaded("the encoder's queue") from error
        raise Unavailable(f"the encoder (Triton at {url}) does not answer: {text}") from error
    except (grpc.RpcError, OSError) as error:
        raise Unavailable(f"the encoder (Triton at {url}) is unreachable: {error}") from error
