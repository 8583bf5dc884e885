"""What the clients for threads and for asyncio share: their options, and the requests they send."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Self

from samserve.client.everything import GridOptions, write_options
from samserve.client.image import HashedImage
from samserve.core.errors import EmbeddingNotCached
from samserve.core.geometry import Size
from samserve.core.image_id import image_id
from samserve.core.limits import MAX_METADATA_BYTES, check_count
from samserve.infra import tracing
from samserve.v1 import embedding_pb2, segmentation_pb2
from samserve.v1 import types_pb2 as types
from samserve.wire.metadata import IMAGE_KEY, TENANT_KEY

DEFAULT_DECODER = "127.0.0.1:8501"
DEFAULT_EMBEDDING = "127.0.0.1:8500"

OPENING_PAUSES = (0.2, 0.4, 0.8)  # seconds before a stream is opened once more

DECODER = "the decoder"  # the services' names in errors
EMBEDDING = "the embedding service"

# Requests that name an image, by its hash or by its bytes.
ImageMessage = (
    segmentation_pb2.PredictRequest
    | segmentation_pb2.InteractRequest.Open
    | segmentation_pb2.GenerateMasksRequest
    | segmentation_pb2.FindRequest
    | embedding_pb2.EmbedRequest
)

# Those of the decoder.
PlacedMessage = (
    segmentation_pb2.PredictRequest
    | segmentation_pb2.InteractRequest.Open
    | segmentation_pb2.GenerateMasksRequest
    | segmentation_pb2.FindRequest
)


class ClientBase:
    """A client's options, and what it remembers of the last image."""

    def __init__(
        self, model: str, tenant: str, timeout: float, metadata: Sequence[tuple[str, str]]
    ) -> None:
        """Keep the options, which are those of `Client`. Raises InvalidInput."""
        # A server or a proxy would refuse larger metadata by closing the connection.
        size = sum(len(key) + len(value) for key, value in metadata)
        check_count(size, MAX_METADATA_BYTES, "metadata", "bytes")
        tracing.join()

        self._model = model
        self._timeout = timeout
        self._metadata = ((TENANT_KEY, tenant), *metadata)
        self._last_image = HashedImage(image_id(b""), b"")
        self._last_size: tuple[str, Size] | None = None  # of the image with this id

    @property
    def model(self) -> str:
        """The model of all calls; empty for the server's default."""
        return self._model

    def using(
        self,
        *,
        model: str | None = None,
        tenant: str | None = None,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> Self:
        """Return a client with other options, on the same connections. Do not close it.

        Args:
            model: As of the constructor, likewise the others; None keeps this client's.
            tenant: Whose cache entries the calls use.
            timeout: Seconds for a call with all its attempts.
            metadata: Pairs in addition to this client's.
        """
        other = copy.copy(self)
        if model is not None:
            other._model = model
        if tenant is not None:
            other._metadata = ((TENANT_KEY, tenant), *self._metadata[1:])
        if timeout is not None:
            other._timeout = timeout
        other._metadata = (*other._metadata, *metadata)
        return other

    def _placed(self, request: PlacedMessage) -> tuple[tuple[str, str], ...]:
        """Return metadata by which the call goes to the decoder that has the image ready."""
        image_id = request.ref.image_id or request.expected_image_id
        return (*self._metadata, (IMAGE_KEY, image_id))

    def _predict_request(
        self,
        image: HashedImage,
        prompts: Sequence[segmentation_pb2.Prompt],
        output: segmentation_pb2.OutputOptions,
    ) -> segmentation_pb2.PredictRequest:
        return segmentation_pb2.PredictRequest(
            ref=types.ImageRef(image_id=image.image_id),
            model=self._model,
            prompts=prompts,
            output=output,
        )

    def _opening(
        self, image: HashedImage, output: segmentation_pb2.OutputOptions
    ) -> segmentation_pb2.InteractRequest.Open:
        return segmentation_pb2.InteractRequest.Open(
            ref=types.ImageRef(image_id=image.image_id), model=self._model, output=output
        )

    def _everything_request(
        self,
        image: HashedImage,
        options: GridOptions,
        output: segmentation_pb2.OutputOptions,
        propose: segmentation_pb2.ProposalOptions | None = None,
    ) -> segmentation_pb2.GenerateMasksRequest:
        return segmentation_pb2.GenerateMasksRequest(
            ref=types.ImageRef(image_id=image.image_id),
            model=self._model,
            options=write_options(options),
            output=output,
            propose=propose,
        )

    def _find_request(
        self,
        image: HashedImage,
        concepts: Sequence[types.Concept],
        output: segmentation_pb2.OutputOptions,
        threshold: float | None,
        max_overlap: float,
    ) -> segmentation_pb2.FindRequest:
        return segmentation_pb2.FindRequest(
            ref=types.ImageRef(image_id=image.image_id),
            model=self._model,
            concepts=concepts,
            output=output,
            threshold=threshold,
            max_overlap=max_overlap,
        )

    def _embed_request(self, image: HashedImage) -> embedding_pb2.EmbedRequest:
        return embedding_pb2.EmbedRequest(image_id=image.image_id, model=self._model)

    def _tensors_request(
        self, image: HashedImage, model_version: str = ""
    ) -> embedding_pb2.GetEmbeddingRequest:
        reference = types.ImageRef(image_id=image.image_id, model_version=model_version)
        return embedding_pb2.GetEmbeddingRequest(image=reference, model=self._model)

    def _delete_image_request(self, image_id: str) -> embedding_pb2.DeleteImageRequest:
        return embedding_pb2.DeleteImageRequest(image_id=image_id)

    def _delete_tenant_request(self, tenant: str) -> embedding_pb2.DeleteTenantRequest:
        return embedding_pb2.DeleteTenantRequest(tenant=tenant)

    def _delete_request(self, image_id: str) -> embedding_pb2.DeleteEmbeddingRequest:
        reference = types.ImageRef(image_id=image_id)
        return embedding_pb2.DeleteEmbeddingRequest(image=reference, model=self._model)


def decoder_address(given: str | None) -> str:
    """Return the decoder's address: as given, or of the environment, or on this machine."""
    return given or os.environ.get("DECODER_URL", DEFAULT_DECODER)


def embedding_address(given: str | None) -> str:
    """Return the embedding service's address, likewise."""
    return given or os.environ.get("EMBEDDING_URL", DEFAULT_EMBEDDING)


def add_bytes(request: ImageMessage, image: HashedImage, problem: EmbeddingNotCached) -> None:
    """Put the image's bytes into a request that named it by hash. Raises if there are none."""
    if image.data is None:
        raise problem
    request.data = image.data
    request.expected_image_id = image.image_id
