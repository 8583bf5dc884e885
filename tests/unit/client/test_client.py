"""What the client sends: the hash first, then the bytes with their hash; metadata, credentials."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from samserve.client import Click, Client
from samserve.client import image as image_module
from samserve.core.errors import EmbeddingNotCached, InvalidInput
from samserve.core.image_id import image_id
from samserve.v1 import embedding_pb2, embedding_pb2_grpc, segmentation_pb2, segmentation_pb2_grpc
from samserve.v1 import types_pb2 as types
from samserve.wire.status import DETAILS_KEY, status_of

IMAGE = b"an image"


class RecordingService(
    embedding_pb2_grpc.EmbeddingServiceServicer,
    segmentation_pb2_grpc.SegmentationServiceServicer,
):
    """Knows no image by hash; keeps the requests and the metadata."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: dict[str, str] = {}

    def Embed(
        self, request: embedding_pb2.EmbedRequest, context: grpc.ServicerContext
    ) -> embedding_pb2.EmbedResponse:
        self._record(request, context)
        if not request.data:
            self._not_cached(context)
        return embedding_pb2.EmbedResponse(cache=types.CACHE_STATUS_MISS)

    def Predict(
        self, request: segmentation_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> segmentation_pb2.PredictResponse:
        self._record(request, context)
        if not request.data:
            self._not_cached(context)
        return segmentation_pb2.PredictResponse(cache=types.CACHE_STATUS_MISS)

    def Interact(
        self, requests: Iterator[segmentation_pb2.InteractRequest], context: grpc.ServicerContext
    ) -> Iterator[segmentation_pb2.InteractResponse]:
        opening = next(requests).open
        self._record(opening, context)
        if not opening.data:
            self._not_cached(context)
        opened = segmentation_pb2.InteractResponse.Opened(cache=types.CACHE_STATUS_MISS)
        yield segmentation_pb2.InteractResponse(opened=opened)

    def _record(self, request: Any, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        self.metadata = {key: str(value) for key, value in context.invocation_metadata()}

    def _not_cached(self, context: grpc.ServicerContext) -> None:
        status = status_of(EmbeddingNotCached(image_id(IMAGE)))
        context.set_trailing_metadata([(DETAILS_KEY, status.SerializeToString())])
        context.abort(grpc.StatusCode.NOT_FOUND, status.message)


@pytest.fixture
def service() -> RecordingService:
    return RecordingService()


@pytest.fixture
def address(service: RecordingService, tmp_path: Path) -> Iterator[str]:
    """A Unix socket: gRPC's local credentials are secure there, and need no certificate."""
    server = grpc.server(ThreadPoolExecutor(4))
    embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(service, server)
    segmentation_pb2_grpc.add_SegmentationServiceServicer_to_server(service, server)
    address = f"unix:{tmp_path / 'samserve'}"
    credentials = grpc.local_server_credentials(grpc.LocalConnectionType.UDS)
    server.add_secure_port(address, credentials)
    server.start()
    yield address
    server.stop(None).wait()


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address, address, credentials=token("secret")) as client:
        yield client


def token(text: str) -> grpc.ChannelCredentials:
    return grpc.composite_channel_credentials(
        grpc.local_channel_credentials(grpc.LocalConnectionType.UDS),
        grpc.access_token_call_credentials(text),
    )


CALLS = {
    "embed": lambda client, image: client.embed(image),
    "predict": lambda client, image: client.segment(image, [Click(1, 1)]),
    "interact": lambda client, image: client.interact(image).close(),
}


@pytest.mark.parametrize("name", CALLS)
def test_bytes_follow_the_hash_and_are_hashed_once(
    client: Client,
    service: RecordingService,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashed: list[bytes] = []
    monkeypatch.setattr(
        image_module, "image_id", lambda data: hashed.append(data) or image_id(data)
    )
    CALLS[name](client, IMAGE)
    CALLS[name](client, IMAGE)
    assert hashed == [IMAGE]

    by_hash, with_bytes, *_ = service.requests
    named = by_hash.image_id if name == "embed" else by_hash.ref.image_id
    assert named == image_id(IMAGE)
    assert by_hash.expected_image_id == ""
    assert (with_bytes.data, with_bytes.expected_image_id) == (IMAGE, image_id(IMAGE))


@pytest.mark.parametrize("name", CALLS)
def test_credentials_and_metadata_are_sent_with_each_call(
    address: str, service: RecordingService, name: str
) -> None:
    with Client(
        address,
        address,
        tenant="mine",
        credentials=token("secret"),
        metadata=[("x-project", "coins")],
    ) as client:
        CALLS[name](client, IMAGE)
    assert service.metadata["authorization"] == "Bearer secret"
    assert service.metadata["x-project"] == "coins"
    assert service.metadata["samserve-tenant"] == "mine"


def test_an_unknown_format_is_an_error_before_any_request(
    client: Client, service: RecordingService
) -> None:
    with pytest.raises(InvalidInput, match="unknown mask format 'jpeg'"):
        client.predict(IMAGE, [], formats=["jpeg"])
    assert service.requests == []
