"""An embedding as it comes from GetEmbedding, put together."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from samserve.core.embedding import Embedding
from samserve.core.errors import Unavailable
from samserve.core.geometry import Size
from samserve.v1 import embedding_pb2 as pb


def read_tensors(messages: Iterable[pb.GetEmbeddingResponse]) -> Embedding:
    """The header, then all chunks in their order. Raises Unavailable if the stream ends before they are complete."""
    header = pb.GetEmbeddingResponse.Header()
    parts: list[bytearray] = []
    for message in messages:
        if message.HasField("header"):
            header = message.header
            parts = [bytearray() for _ in header.tensors]
        elif message.HasField("chunk"):
            parts[message.chunk.tensor] += message.chunk.data
    wanted = [2 * int(np.prod(tensor.shape)) for tensor in header.tensors]
    if not wanted or [len(part) for part in parts] != wanted:
        raise Unavailable("the embedding service ended the stream before the tensors were complete")
    return Embedding(
        header.image.model_version,
        Size(header.image.width, header.image.height),
        {
            tensor.name: np.frombuffer(part, "<f2").reshape(tuple(tensor.shape))
            for tensor, part in zip(header.tensors, parts, strict=True)
        },
    )
