"""Assembles the embedding that GetEmbedding streams."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from samserve.core.embedding import Embedding
from samserve.core.errors import Unavailable
from samserve.core.geometry import Size
from samserve.v1 import embedding_pb2 as pb


def read_tensors(messages: Iterable[pb.GetEmbeddingResponse]) -> Embedding:
    """Read a header and the chunks of its tensors, fp16.

    Raises:
        Unavailable: the stream ended before the tensors were complete.
    """
    header = pb.GetEmbeddingResponse.Header()
    buffers: list[bytearray] = []

    for message in messages:
        if message.HasField("header"):
            header = message.header
            buffers = [bytearray() for _ in header.tensors]
        elif message.HasField("chunk"):
            buffers[message.chunk.tensor] += message.chunk.data

    expected = [2 * int(np.prod(tensor.shape)) for tensor in header.tensors]  # bytes
    if not expected or [len(buffer) for buffer in buffers] != expected:
        raise Unavailable(
            "the embedding service ended the stream before the tensors were complete; retry"
        )

    return Embedding(
        header.image.model_version,
        Size(header.image.width, header.image.height),
        {
            tensor.name: np.frombuffer(buffer, "<f2").reshape(tuple(tensor.shape))
            for tensor, buffer in zip(header.tensors, buffers, strict=True)
        },
    )
