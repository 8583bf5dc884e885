"""The client: hashes an image, asks for its masks, and sends the bytes only if it must."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import grpc

from samserve.client.answer import Answer, EmbedAnswer, read_answer, read_embed_answer
from samserve.client.bulk import BulkEmbedding, BulkOptions, BulkResult
from samserve.client.embedding_reader import read_tensors
from samserve.client.interaction import Interaction
from samserve.client.prompt import Box, Click, Prompt, write_prompt
from samserve.client.retry import call_with_retry
from samserve.core.embedding import Embedding
from samserve.core.errors import EmbeddingNotCached
from samserve.core.image_id import image_id
from samserve.infra import tracing
from samserve.v1 import embedding_pb2, embedding_pb2_grpc, segmentation_pb2, segmentation_pb2_grpc
from samserve.v1 import types_pb2 as types
from samserve.wire.metadata import DEFAULT_TENANT, TENANT_KEY, message_limits
from samserve.wire.status import error_of

DEFAULT_DECODER = "127.0.0.1:8501"
DEFAULT_EMBEDDING = "127.0.0.1:8500"
MAX_MESSAGE = 64 * 2**20
_RETRIES = {
    "methodConfig": [
        {
            # the others: client/retry.py
            "name": [{"service": "samserve.v1.SegmentationService", "method": "Interact"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.2s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                # CANCELLED: by a server that began to stop as the call came, docs/decisions/0021
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"],
            },
        },
        {
            "name": [{"service": "samserve.v1.EmbeddingService", "method": "EmbedMany"}]
        },  # client/bulk.py does it itself
    ],
    "loadBalancingConfig": [{"round_robin": {}}],
}


class Client(AbstractContextManager["Client"]):
    """Talks to a samserve. Threads may share it. Failures are raised as samserve.core.errors.

    decoder, embedding: addresses, by default DECODER_URL and EMBEDDING_URL of the environment, else this machine's.
    `dns:///NAME:PORT`, of a name that stands for many servers, sends calls to each in turn, and to new ones as their
    servers have connections end. If this process has set up OpenTelemetry's tracing, calls are in its traces.
    """

    def __init__(
        self,
        decoder: str | None = None,
        embedding: str | None = None,
        model: str = "",
        tenant: str = DEFAULT_TENANT,
        timeout: float = 60,
    ) -> None:
        tracing.join()
        options = [*message_limits(MAX_MESSAGE), ("grpc.service_config", json.dumps(_RETRIES))]
        self._decoder = grpc.insecure_channel(
            decoder or os.environ.get("DECODER_URL", DEFAULT_DECODER), options
        )
        self._embedding = grpc.insecure_channel(
            embedding or os.environ.get("EMBEDDING_URL", DEFAULT_EMBEDDING), options
        )
        segmentation = segmentation_pb2_grpc.SegmentationServiceStub(self._decoder)
        self._predict, self._interact = segmentation.Predict, segmentation.Interact
        stub = embedding_pb2_grpc.EmbeddingServiceStub(self._embedding)
        self._embed, self._embed_many, self._get_embedding = (
            stub.Embed,
            stub.EmbedMany,
            stub.GetEmbedding,
        )
        self._model, self._timeout = model, timeout
        self._metadata = ((TENANT_KEY, tenant),)
        self._last = (b"", image_id(b""))

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._decoder.close()
        self._embedding.close()

    def segment(
        self,
        image: str | Path | bytes,
        points: Sequence[Click] = (),
        box: Box | None = None,
        mask_input: bytes = b"",
        multimask: bool = True,
        low_res_logits: bool = False,
    ) -> Answer:
        """Masks of the object that one prompt means, in an image given by its path or its bytes."""
        return self.predict(image, [Prompt(points, box, mask_input, multimask)], low_res_logits)

    def predict(
        self,
        image: str | Path | bytes,
        prompts: Sequence[Prompt],
        low_res_logits: bool = False,
        formats: Sequence[str] = ("rle",),
        polygon_tolerance: float = 1,
        max_masks: int = 0,
    ) -> Answer:
        """Masks for several prompts on one image. The bytes travel only if the image is not known yet.

        formats: any of "rle", "png", "polygons" and "bits". polygon_tolerance: how many pixels polygons may stray from
        the mask to have fewer corners. max_masks: how many candidates to answer each prompt with, best first; 0: all.
        """
        data = _bytes(image)
        request = segmentation_pb2.PredictRequest(
            ref=types.ImageRef(image_id=self._identify(data)),
            model=self._model,
            prompts=[write_prompt(prompt) for prompt in prompts],
            output=segmentation_pb2.OutputOptions(
                formats=[f"MASK_FORMAT_{name.upper()}" for name in formats],
                low_res_logits=low_res_logits,
                polygon_tolerance=polygon_tolerance,
                max_masks=max_masks,
            ),
        )
        try:
            return self._ask_masks(request)
        except EmbeddingNotCached:
            request.data = data
            return self._ask_masks(request)

    def interact(self, image: str | Path | bytes, low_res_logits: bool = False) -> Interaction:
        """Open a stream for one image, to be clicked on: `with client.interact("photo.jpg") as photo: ...`."""
        data = _bytes(image)
        opening = segmentation_pb2.InteractRequest.Open(
            ref=types.ImageRef(image_id=self._identify(data)),
            model=self._model,
            output=segmentation_pb2.OutputOptions(low_res_logits=low_res_logits),
        )
        try:
            return self._open(opening)
        except EmbeddingNotCached:
            opening.data = data
            return self._open(opening)

    def embed(self, image: str | Path | bytes) -> EmbedAnswer:
        """Have an image embedded ahead of its first click."""
        data = _bytes(image)
        request = embedding_pb2.EmbedRequest(image_id=self._identify(data), model=self._model)
        try:
            return self._ask_embedding(request)
        except EmbeddingNotCached:
            request.data = data
            return self._ask_embedding(request)

    def embed_many(
        self, images: Iterable[str | Path | bytes], in_flight: int = 16, retries: int = 5
    ) -> Generator[BulkResult]:
        """Have a data set embedded: an answer for each image, as it comes, in any order. A bad image fails alone.

        Every image is asked for by hash first, and the same bytes are sent once. in_flight: how many images may be in
        memory or on the way as bytes; four times as many are taken from `images` ahead of their answers. What fails
        in passing is tried again, up to `retries` times, and so is the stream; Unavailable and the like are raised only
        when the service stays away. To go on after that, or another day, start again: known images cost a lookup.
        """
        start = partial(self._embed_many, metadata=(*self._metadata, *tracing.inject_headers()))
        options = BulkOptions(self._model, in_flight, retries, self._timeout)
        return BulkEmbedding(images, start, self._embed_bytes, options).answers()

    def embedding(self, image: str | Path | bytes) -> Embedding:
        """The embedding itself, its tensors in fp16; the image is embedded first if need be."""
        data = _bytes(image)
        reference = types.ImageRef(image_id=self._identify(data))
        try:
            return self._fetch(reference)
        except EmbeddingNotCached:
            reference.model_version = self._embed_bytes(data).model_version
            return self._fetch(reference)

    def _fetch(self, reference: types.ImageRef) -> Embedding:
        request = embedding_pb2.GetEmbeddingRequest(image=reference, model=self._model)
        try:
            with tracing.span("GetEmbedding", tracing.Kind.CLIENT):
                metadata = (*self._metadata, *tracing.inject_headers())
                return read_tensors(
                    self._get_embedding(request, timeout=self._timeout, metadata=metadata)
                )
        except grpc.RpcError as problem:
            raise error_of(problem, "the embedding service") from problem

    def _embed_bytes(self, data: bytes) -> EmbedAnswer:
        return self._ask_embedding(embedding_pb2.EmbedRequest(data=data, model=self._model))

    def _identify(self, data: bytes) -> str:
        """The image's id; of the bytes object seen last it is known, since clicks come in runs."""
        seen, name = self._last
        if seen is not data:
            name = image_id(data)
            self._last = data, name
        return name

    def _ask_masks(self, request: segmentation_pb2.PredictRequest) -> Answer:
        with tracing.span("Predict", tracing.Kind.CLIENT):
            return read_answer(
                call_with_retry(
                    self._predict, request, self._timeout, self._metadata, "the decoder"
                )
            )

    def _open(self, opening: segmentation_pb2.InteractRequest.Open) -> Interaction:
        with tracing.span("Interact.open", tracing.Kind.CLIENT):
            metadata = (*self._metadata, *tracing.inject_headers())
            return Interaction(partial(self._interact, metadata=metadata), opening, self._timeout)

    def _ask_embedding(self, request: embedding_pb2.EmbedRequest) -> EmbedAnswer:
        with tracing.span("Embed", tracing.Kind.CLIENT):
            answer = call_with_retry(
                self._embed, request, self._timeout, self._metadata, "the embedding service"
            )
            return read_embed_answer(answer)


def _bytes(image: str | Path | bytes) -> bytes:
    return image if isinstance(image, bytes) else Path(image).read_bytes()
