"""The client: asks for an image by hash, and uploads its bytes only if the hash is unknown."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar

import grpc

from samserve.client.answer import (
    Answer,
    BulkResult,
    EmbedAnswer,
    read_answer,
    read_embed_answer,
)
from samserve.client.bulk import BulkEmbedding
from samserve.client.bulk_scheduler import BulkOptions
from samserve.client.embedding_reader import read_tensors
from samserve.client.image import HashedImage, ImageInput, read_bytes
from samserve.client.interaction import Interaction
from samserve.client.output import MaskFormat, write_output
from samserve.client.prompt import Box, Click, Prompt, write_prompt
from samserve.client.retry import call_with_retry
from samserve.core.arrays import Halves
from samserve.core.embedding import Embedding
from samserve.core.errors import EmbeddingNotCached
from samserve.core.image_id import image_id
from samserve.infra import tracing
from samserve.v1 import embedding_pb2, embedding_pb2_grpc, segmentation_pb2, segmentation_pb2_grpc
from samserve.v1 import types_pb2 as types
from samserve.wire.channel import message_limits, proxy_options
from samserve.wire.metadata import DEFAULT_TENANT, TENANT_KEY
from samserve.wire.status import error_of

DEFAULT_DECODER = "127.0.0.1:8501"
DEFAULT_EMBEDDING = "127.0.0.1:8500"
MAX_MESSAGE = 64 * 2**20  # bytes

_SERVICE_CONFIG = {
    "methodConfig": [
        {
            # gRPC retries the opening of a stream; client/retry.py retries unary calls.
            "name": [{"service": "samserve.v1.SegmentationService", "method": "Interact"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.2s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                # CANCELLED: from a server that began to stop as the call arrived, decisions/0021.
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"],
            },
        },
        {
            # client/bulk_scheduler.py reopens this stream.
            "name": [{"service": "samserve.v1.EmbeddingService", "method": "EmbedMany"}]
        },
    ],
    "loadBalancingConfig": [{"round_robin": {}}],
}

Request = TypeVar(
    "Request",
    segmentation_pb2.PredictRequest,
    segmentation_pb2.InteractRequest.Open,
    embedding_pb2.EmbedRequest,
)
Result = TypeVar("Result")


class Client(AbstractContextManager["Client"]):
    """A connection to a decoder and an embedding service. Threads may share it.

    Failures are raised as the classes of samserve.core.errors. If this process has set up
    OpenTelemetry, calls belong to its traces.
    """

    def __init__(
        self,
        decoder: str | None = None,
        embedding: str | None = None,
        *,
        model: str = "",
        tenant: str = DEFAULT_TENANT,
        timeout: float = 60,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Connect lazily; the first call opens the connection.

        Args:
            decoder: address of the decoder, host:port; by default DECODER_URL of the environment,
                else this machine. With `dns:///NAME:PORT` calls are balanced over all servers of
                the name; new servers are found when connections end.
            embedding: address of the embedding service; by default EMBEDDING_URL.
            model: the model of all calls; empty for the server's default.
            tenant: whose cache entries the calls use.
            timeout: seconds for a call with all its retries.
            credentials: of both channels, for instance `grpc.ssl_channel_credentials()`; None for
                connections without TLS.
            metadata: further pairs to send with each call, such as an API key.
        """
        tracing.join()

        self._decoder = _open_channel(
            decoder or os.environ.get("DECODER_URL", DEFAULT_DECODER), credentials
        )
        self._embedding = _open_channel(
            embedding or os.environ.get("EMBEDDING_URL", DEFAULT_EMBEDDING), credentials
        )

        segmentation_stub = segmentation_pb2_grpc.SegmentationServiceStub(self._decoder)
        self._predict = segmentation_stub.Predict
        self._interact = segmentation_stub.Interact

        embedding_stub = embedding_pb2_grpc.EmbeddingServiceStub(self._embedding)
        self._embed = embedding_stub.Embed
        self._embed_many = embedding_stub.EmbedMany
        self._get_embedding = embedding_stub.GetEmbedding

        self._model = model
        self._timeout = timeout
        self._metadata = ((TENANT_KEY, tenant), *metadata)
        self._last_image = HashedImage(b"", image_id(b""))

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._decoder.close()
        self._embedding.close()

    def segment(
        self,
        image: ImageInput,
        points: Sequence[Click] = (),
        *,
        box: Box | None = None,
        mask_input: bytes | Halves = b"",
        multimask: bool = True,
        low_res_logits: bool = False,
    ) -> Answer:
        """Segment one object.

        Args:
            image: a file's path or the encoded bytes.
            points: clicks, in pixels of the oriented image.
            box: a rectangle around the object.
            mask_input: low-res logits of an earlier mask to refine, as in `Prompt`.
            multimask: True for three candidates, False for one mask.
            low_res_logits: whether masks come with their logits.

        Raises:
            InvalidInput: the image or the prompt is invalid.
            OSError: the file cannot be read.
        """
        prompt = Prompt(points, box, mask_input, multimask)
        return self.predict(image, [prompt], low_res_logits=low_res_logits)

    def predict(
        self,
        image: ImageInput,
        prompts: Sequence[Prompt],
        *,
        low_res_logits: bool = False,
        formats: Sequence[MaskFormat] = ("rle",),
        polygon_tolerance: float = 1,
        max_masks: int = 0,
    ) -> Answer:
        """Answer several prompts on one image. The bytes are uploaded only if the hash is unknown.

        Args:
            image: a file's path or the encoded bytes.
            prompts: one prompt for each object.
            low_res_logits: whether masks come with their logits.
            formats: any of "rle", "png", "polygons" and "bits".
            polygon_tolerance: pixels that a polygon may differ from the mask to save corners.
            max_masks: candidates for each prompt, best first; 0 for all.

        Raises:
            InvalidInput: the image, a prompt or an option is invalid.
            OSError: the file cannot be read.
        """
        hashed = self._hash(image)
        request = segmentation_pb2.PredictRequest(
            ref=types.ImageRef(image_id=hashed.image_id),
            model=self._model,
            prompts=[write_prompt(prompt) for prompt in prompts],
            output=write_output(
                formats=formats,
                low_res_logits=low_res_logits,
                polygon_tolerance=polygon_tolerance,
                max_masks=max_masks,
            ),
        )

        return _by_hash_then_bytes(self._request_masks, request, hashed)

    def interact(self, image: ImageInput, *, low_res_logits: bool = False) -> Interaction:
        """Open a stream for one image: `with client.interact("photo.jpg") as photo: ...`.

        Args:
            image: a file's path or the encoded bytes.
            low_res_logits: whether masks come with their logits.

        Raises:
            InvalidInput: the image is invalid.
            OSError: the file cannot be read.
        """
        hashed = self._hash(image)
        opening = segmentation_pb2.InteractRequest.Open(
            ref=types.ImageRef(image_id=hashed.image_id),
            model=self._model,
            output=write_output(low_res_logits=low_res_logits),
        )
        return _by_hash_then_bytes(self._open_interaction, opening, hashed)

    def embed(self, image: ImageInput) -> EmbedAnswer:
        """Embed an image before its first click.

        Raises:
            InvalidInput: the image is invalid.
            OSError: the file cannot be read.
        """
        hashed = self._hash(image)
        request = embedding_pb2.EmbedRequest(image_id=hashed.image_id, model=self._model)
        return _by_hash_then_bytes(self._request_embedding, request, hashed)

    def embed_many(
        self, images: Iterable[ImageInput], *, in_flight: int = 16, retries: int = 5
    ) -> Generator[BulkResult]:
        """Embed a data set; yield a result for each image, in any order.

        An invalid image fails alone. Each image is requested by hash first, and equal bytes are
        sent once. To continue an interrupted run, start it again: a cached image costs a lookup.

        Args:
            images: paths or encoded bytes.
            in_flight: images whose bytes may be in memory or in flight. Four times as many images
                are taken from `images` before their results.
            retries: further attempts for an image, and for the stream, after a temporary failure.

        Raises:
            Unavailable: the service stayed away.
            ModelNotFound: the model is unknown.
        """
        start = partial(self._embed_many, metadata=(*self._metadata, *tracing.inject_headers()))
        options = BulkOptions(self._model, in_flight, retries, self._timeout)
        return BulkEmbedding(images, start, self._embed_bytes, options).results()

    def embedding(self, image: ImageInput) -> Embedding:
        """Return the embedding itself, its tensors in fp16. Embeds the image first if necessary.

        Raises:
            InvalidInput: the image is invalid.
            OSError: the file cannot be read.
        """
        hashed = self._hash(image)
        reference = types.ImageRef(image_id=hashed.image_id)
        try:
            return self._fetch_tensors(reference)
        except EmbeddingNotCached:
            answer = self._embed_bytes(hashed.data, hashed.image_id)
            reference.model_version = answer.model_version
            return self._fetch_tensors(reference)

    def _hash(self, image: ImageInput) -> HashedImage:
        """Read and hash an image. Repeated clicks on the same bytes object reuse its hash."""
        data = read_bytes(image)
        if self._last_image.data is data:
            return self._last_image
        hashed = HashedImage(data, image_id(data))
        self._last_image = hashed
        return hashed

    def _request_masks(self, request: segmentation_pb2.PredictRequest) -> Answer:
        with tracing.span("Predict", tracing.Kind.CLIENT):
            response = call_with_retry(
                self._predict,
                request,
                timeout=self._timeout,
                metadata=self._metadata,
                stage="the decoder",
            )

            return read_answer(response)

    def _open_interaction(self, opening: segmentation_pb2.InteractRequest.Open) -> Interaction:
        with tracing.span("Interact.open", tracing.Kind.CLIENT):
            metadata = (*self._metadata, *tracing.inject_headers())
            return Interaction(partial(self._interact, metadata=metadata), opening, self._timeout)

    def _request_embedding(self, request: embedding_pb2.EmbedRequest) -> EmbedAnswer:
        with tracing.span("Embed", tracing.Kind.CLIENT):
            response = call_with_retry(
                self._embed,
                request,
                timeout=self._timeout,
                metadata=self._metadata,
                stage="the embedding service",
            )

            return read_embed_answer(response)

    def _embed_bytes(self, data: bytes, expected_image_id: str = "") -> EmbedAnswer:
        return self._request_embedding(
            embedding_pb2.EmbedRequest(
                data=data, model=self._model, expected_image_id=expected_image_id
            )
        )

    def _fetch_tensors(self, reference: types.ImageRef) -> Embedding:
        request = embedding_pb2.GetEmbeddingRequest(image=reference, model=self._model)
        try:
            with tracing.span("GetEmbedding", tracing.Kind.CLIENT):
                metadata = (*self._metadata, *tracing.inject_headers())
                messages = self._get_embedding(request, timeout=self._timeout, metadata=metadata)
                return read_tensors(messages)
        except grpc.RpcError as problem:
            raise error_of(problem, "the embedding service") from problem


def _open_channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    options = [
        *message_limits(MAX_MESSAGE),
        *proxy_options(address),
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ]
    if credentials is None:
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, credentials, options)


def _by_hash_then_bytes(
    call: Callable[[Request], Result], request: Request, image: HashedImage
) -> Result:
    """Make a call that names the image by hash; if the image is unknown, again with its bytes."""
    try:
        return call(request)
    except EmbeddingNotCached:
        request.data = image.data
        request.expected_image_id = image.image_id
        return call(request)
