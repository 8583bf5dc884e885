"""The embedding service, called over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import grpc.aio

from samserve.codec.packed import DamagedEmbedding, unpack
from samserve.core.cache_status import CacheStatus
from samserve.core.caller import current_caller
from samserve.core.concept import TokenizedConcept
from samserve.core.crop import Crop
from samserve.core.embedding import Embedding
from samserve.core.errors import Unavailable
from samserve.core.image_request import ImageRequest
from samserve.decoder.concept_reader import ConceptReader, RemoteConcepts
from samserve.infra.tracing import Kind, span
from samserve.v1 import embedding_pb2 as pb
from samserve.v1 import embedding_pb2_grpc as rpc
from samserve.v1 import types_pb2 as types
from samserve.wire.callers import Callers
from samserve.wire.channel import EVERY_SERVER, message_limits, proxy_options
from samserve.wire.convert import cache_status_from_proto, write_examples
from samserve.wire.metadata import TENANT_KEY, call_options
from samserve.wire.request_id import request_id_here
from samserve.wire.status import error_of


@dataclass(frozen=True, slots=True)
class RemoteEmbedding:
    """An embedding from the embedding service.

    Attributes:
        embedding: With its tensors.
        status: Where the service had it from.
        remote_ms: The service's stages in milliseconds.
    """

    embedding: Embedding
    status: CacheStatus
    remote_ms: dict[str, float]


class RemoteEmbedder:
    """Has images embedded by the embedding service."""

    def __init__(
        self, url: str, timeout: float, max_image_bytes: int, callers: Callers | None = None
    ) -> None:
        """Open a channel to `url`; calls fail after `timeout` seconds, and name their callers."""
        self._channel = grpc.aio.insecure_channel(
            url, options=[*message_limits(max_image_bytes), *proxy_options(url), EVERY_SERVER]
        )
        self._stub = rpc.EmbeddingServiceStub(self._channel)
        self._timeout = timeout
        self._callers = callers or Callers()

    async def embed(self, request: ImageRequest) -> RemoteEmbedding:
        """Send the image's bytes, and return its embedding.

        The service checks the expected id against its own hash. A part of an image is embedded
        after whole images, for which a person may wait.

        Raises:
            SamserveError: The service's own error.
            Unavailable: The service does not answer, or sends a damaged embedding.
        """
        message = pb.EmbedRequest(
            data=request.data,
            model=request.model,
            include_embedding=True,
            expected_image_id=request.expected_image_id,
            crop=None if request.crop is None else _box(request.crop),
            priority=pb.PRIORITY_INTERACTIVE if request.crop is None else pb.PRIORITY_BULK,
        )
        tenant = (TENANT_KEY, current_caller().tenant)
        metadata = (tenant, *self._callers.metadata(), *request_id_here())
        try:
            with span("Embed", Kind.CLIENT):
                response = await self._stub.Embed(message, **call_options(self._timeout, metadata))
        except grpc.aio.AioRpcError as error:
            raise error_of(error, "the embedding service") from error

        # Checksums and decoding of some megabytes would hold up the event loop.
        try:
            embedding = await asyncio.to_thread(unpack, response.embedding.data)
        except DamagedEmbedding as error:
            raise Unavailable(f"the embedding service sent a damaged embedding: {error}") from error

        return RemoteEmbedding(
            embedding,
            status=cache_status_from_proto(response.cache),
            remote_ms={time.stage: time.milliseconds for time in response.timings},
        )

    async def find_concepts(
        self, request: ImageRequest, concepts: Mapping[int, TokenizedConcept]
    ) -> RemoteConcepts:
        """Have concepts found on an image, which is sent if the request has its bytes.

        Args:
            request: The image.
            concepts: By their numbers in the caller's request, which name them in errors.

        Raises:
            SamserveError: The service's own error.
            Unavailable: The service does not answer, or ends its answer early.
        """
        message = pb.FindConceptsRequest(
            model=request.model,
            concepts=[
                pb.TokenizedConcept(tokens=each.tokens, examples=write_examples(each.examples))
                for each in concepts.values()
            ],
            expected_image_id=request.expected_image_id,
        )
        if request.data is None:
            reference = types.ImageRef(
                image_id=request.image_id, model_version=request.model_version
            )
            message.ref.CopyFrom(reference)
        else:
            message.data = request.data

        tenant = (TENANT_KEY, current_caller().tenant)
        metadata = (tenant, *self._callers.metadata(), *request_id_here())
        reader = ConceptReader(list(concepts))
        try:
            with span("FindConcepts", Kind.CLIENT):
                options = call_options(self._timeout, metadata)
                async for response in self._stub.FindConcepts(message, **options):
                    reader.read(response)
        except grpc.aio.AioRpcError as error:
            raise error_of(error, "the embedding service") from error
        return reader.answer()

    async def close(self) -> None:
        await self._channel.close()


def _box(crop: Crop) -> types.Box:
    return types.Box(x0=crop.x0, y0=crop.y0, x1=crop.x1, y1=crop.y1)
