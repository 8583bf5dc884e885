"""The stack under attack, and what several attacks need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import h2.exceptions
from samserve.client import Click, Client
from samserve.v1 import embedding_pb2, embedding_pb2_grpc, segmentation_pb2
from samserve.v1 import types_pb2 as types

IMAGE = Path("examples/coins.png")
FOREGROUND = types.POINT_LABEL_FOREGROUND
LARGE_MESSAGES = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_metadata_size", 2**20),
]
CLOSED = (OSError, grpc.RpcError, h2.exceptions.H2Error)  # the server closed the connection
SENT = 32 * 2**20 - 64  # bytes of a message that is never finished
FORMATS = (
    segmentation_pb2.MASK_FORMAT_RLE,
    segmentation_pb2.MASK_FORMAT_PNG,
    segmentation_pb2.MASK_FORMAT_POLYGONS,
    segmentation_pb2.MASK_FORMAT_BITS,
)


@dataclass(frozen=True, slots=True)
class Target:
    """The stack under attack.

    Attributes:
        decoder: `host:port`.
        embedding: `host:port`.
        redis: A URL.
        begin: Called when the attack is prepared; returns when it may begin.
    """

    decoder: str
    embedding: str
    redis: str
    begin: Callable[[], None]


def open_channel(address: str) -> grpc.Channel:
    return grpc.insecure_channel(
        address, options=[*LARGE_MESSAGES, ("grpc.use_local_subchannel_pool", 1)]
    )


def known_image(target: Target) -> str:
    with Client(target.decoder, target.embedding, timeout=60) as client:
        answer = client.segment(IMAGE, [Click(213, 193)])
        return str(answer.image_id)


def embed(target: Target, data: bytes) -> types.ImageRef:
    with open_channel(target.embedding) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        answer = stub.Embed(embedding_pb2.EmbedRequest(data=data), timeout=60)
        return types.ImageRef(image_id=answer.image.image_id)
