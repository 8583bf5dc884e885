"""An embedding as GetEmbedding sends it: plain tensors in chunks. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from samserve.core.embedding import Embedding
from samserve.v1 import embedding_pb2 as pb
from samserve.wire.convert import image_ref

CHUNK = 256 * 2**10  # bytes


def messages(image_id: str, embedding: Embedding) -> Iterator[pb.GetEmbeddingResponse]:
    """Yield the header, then each tensor's bytes, fp16 little-endian, in parts of CHUNK."""
    tensors = [
        pb.GetEmbeddingResponse.Tensor(
            name=name, data_type=pb.DATA_TYPE_FLOAT16, shape=tensor.shape
        )
        for name, tensor in embedding.tensors.items()
    ]
    header = pb.GetEmbeddingResponse.Header(image=image_ref(image_id, embedding), tensors=tensors)
    yield pb.GetEmbeddingResponse(header=header)

    for index, tensor in enumerate(embedding.tensors.values()):
        data = np.ascontiguousarray(tensor, "<f2").tobytes()
        for offset in range(0, len(data), CHUNK):
            chunk = pb.GetEmbeddingResponse.Chunk(
                tensor=index, offset=offset, data=data[offset : offset + CHUNK]
            )
            yield pb.GetEmbeddingResponse(chunk=chunk)
