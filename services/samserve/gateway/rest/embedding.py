"""Writes embeddings: fp16, and compressed for callers that take gzip."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator

import orjson
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from samserve.core.embedding import Embedding

CHUNK = 256 * 1024  # bytes in one piece of the answer

# The fastest level: cached embeddings have few different values, and more effort finds little more.
LEVEL = 1
GZIP = 16 + zlib.MAX_WBITS


def accepts_gzip(request: Request) -> bool:
    """Return whether a caller takes gzip."""
    codings = request.headers.get("accept-encoding", "").lower().split(",")
    return any(each.strip() == "gzip" for each in codings)


async def embedding_response(embedding: Embedding, *, packed: bool) -> Response:
    """Answer with an embedding's tensors, little-endian, one after the other."""
    headers = {"samserve-embedding": _description(embedding), "vary": "accept-encoding"}
    if packed:
        headers["content-encoding"] = "gzip"
    pieces = _packed(embedding) if packed else _plain(embedding)
    return StreamingResponse(pieces, media_type="application/octet-stream", headers=headers)


async def _plain(embedding: Embedding) -> AsyncIterator[memoryview]:
    for tensor in embedding.tensors.values():
        data = memoryview(tensor.data).cast("B")
        for start in range(0, len(data), CHUNK):
            yield data[start : start + CHUNK]


async def _packed(embedding: Embedding) -> AsyncIterator[bytes]:
    packer = zlib.compressobj(LEVEL, wbits=GZIP)
    async for piece in _plain(embedding):
        yield await asyncio.to_thread(packer.compress, piece)
    yield packer.flush()


def _description(embedding: Embedding) -> str:
    described = {
        "width": embedding.size.width,
        "height": embedding.size.height,
        "model_version": embedding.model_version,
        "tensors": [
            {"name": name, "dtype": "float16", "shape": tensor.shape}
            for name, tensor in embedding.tensors.items()
        ],
    }
    return orjson.dumps(described).decode("ascii")
