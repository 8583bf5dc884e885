"""Assembles the embedding that GetEmbedding streams."""

from __future__ import annotations

import numpy as np

from samserve.core.embedding import Embedding
from samserve.core.errors import Unavailable
from samserve.core.geometry import Size
from samserve.v1 import embedding_pb2 as pb


class TensorReader:
    """Reads a header and the chunks of its tensors, fp16, message by message."""

    def __init__(self) -> None:
        self._header = pb.GetEmbeddingResponse.Header()
        self._buffers: list[bytearray] = []

    def read(self, message: pb.GetEmbeddingResponse) -> None:
        """Keep what a message brings."""
        if message.HasField("header"):
            self._header = message.header
            self._buffers = [bytearray() for _ in self._header.tensors]
        elif message.HasField("chunk"):
            self._buffers[message.chunk.tensor] += message.chunk.data

    def embedding(self) -> Embedding:
        """Return the embedding, once the stream has ended.

        Raises:
            Unavailable: The stream ended before the tensors were complete.
        """
        tensors = self._header.tensors
        expected = [2 * int(np.prod(tensor.shape)) for tensor in tensors]  # bytes
        if not expected or [len(buffer) for buffer in self._buffers] != expected:
            raise Unavailable(
                "the embedding service ended the stream before the tensors were complete; retry"
            )

        image = self._header.image
        return Embedding(
            image.model_version,
            Size(image.width, image.height),
            {
                tensor.name: np.frombuffer(buffer, "<f2").reshape(tuple(tensor.shape))
                for tensor, buffer in zip(tensors, self._buffers, strict=True)
            },
        )
