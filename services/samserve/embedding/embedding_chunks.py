"""An embedding as GetEmbedding sends it: plain tensors in chunks. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from samserve.core.embedding import Embedding, EmbeddingHeader
from samserve.v1 import embedding_pb2 as pb
from samserve.v1 import types_pb2 as types

CHUNK = 256 * 2**10


def messages(image_id: str, embedding: Embedding) -> Iterator[pb.GetEmbeddingResponse]:
    """The header, then each tensor's bytes, fp16 little-endian, in parts of CHUNK."""
    described = [
        pb.GetEmbeddingResponse.Tensor(
            name=name, data_type=pb.DATA_TYPE_FLOAT16, shape=tensor.shape
        )
        for name, tensor in embedding.tensors.items()
    ]
    image = image_ref(image_id, embedding)
    yield pb.GetEmbeddingResponse(
        header=pb.GetEmbeddingResponse.Header(image=image, tensors=described)
    )
    for index, tensor in enumerate(embedding.tensors.values()):
        data = np.ascontiguousarray(tensor, "<f2").tobytes()
        for offset in range(0, len(data), CHUNK):
            part = pb.GetEmbeddingResponse.Chunk(
                tensor=index, offset=offset, data=data[offset : offset + CHUNK]
            )
            yield pb.GetEmbeddingResponse(chunk=part)


def image_ref(image_id: str, found: EmbeddingHeader | Embedding) -> types.ImageRef:
    return types.ImageRef(
        image_id=image_id,
        model_version=found.model_version,
        width=found.size.width,
        height=found.size.height,
    )
