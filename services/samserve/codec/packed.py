"""Embeddings to bytes and back: the one form in which they are cached and sent.

Packed layout, little-endian: magic `SAME`, frame version u8, header length u16, payload length u32, CRC-32 of the
payload u32, CRC-32 of what stands before and of the padded header u32; then the header (JSON: model version, oriented
size, of each tensor name, coding, shape and bytes), padded with spaces to HEAD bytes in all; then the tensors one after
another, coded as tensors.py says. The head alone can be read without the payload.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from math import prod
from typing import Any

from samserve.codec.tensors import Coding, decode, encode
from samserve.core.embedding import Embedding, EmbeddingHeader
from samserve.core.geometry import Size

HEAD = 512
MOST_VALUES = 2**25  # in one embedding; SAM 2 has 4 million
_MAGIC, _VERSION = b"SAME", 2
_PREFIX = struct.Struct("<4sBHIII")


class DamagedEmbedding(ValueError):
    """Packed bytes that are not an embedding of this form, or not whole."""


def pack(embedding: Embedding, coding: Coding = "small") -> bytes:
    """Serialise; what was read is sent on as it came. Raises ValueError if the header does not fit, or the embedding is
    too large.
    """
    if embedding.packed:
        return embedding.packed
    if sum(t.size for t in embedding.tensors.values()) > MOST_VALUES:
        raise ValueError(f"an embedding has at most {MOST_VALUES:,} values")
    tensors, pieces, check, length = [], [], 0, 0
    for name, tensor in embedding.tensors.items():
        written, body = encode(tensor, coding)
        for piece in body:
            check = zlib.crc32(piece, check)
        size = sum(memoryview(piece).nbytes for piece in body)
        tensors.append([name, written, tensor.shape, size])
        pieces += body
        length += size
    header = json.dumps(
        {
            "model": embedding.model_version,
            "size": [embedding.size.width, embedding.size.height],
            "tensors": tensors,
        },
        separators=(",", ":"),
    ).encode()
    if len(header) > HEAD - _PREFIX.size:
        raise ValueError(
            f"an embedding's header of {len(header)} bytes does not fit {HEAD - _PREFIX.size}"
        )
    padded = header.ljust(HEAD - _PREFIX.size)
    before = _PREFIX.pack(_MAGIC, _VERSION, len(header), length, check, 0)[:-4]
    return b"".join([before, _check_of(before, padded), padded, *pieces])


def unpack_header(packed: bytes) -> EmbeddingHeader:
    """Read the first HEAD bytes. Raises DamagedEmbedding."""
    return _header(packed).head


def unpack(packed: bytes) -> Embedding:
    """Read it all; tensors kept as plain fp16 are not copied. Raises DamagedEmbedding."""
    header = _header(packed)
    payload = memoryview(packed)[HEAD:]
    if len(payload) != header.length or zlib.crc32(payload) != header.check:
        raise DamagedEmbedding("the packed embedding's length or checksum is wrong")
    tensors, at = {}, 0
    for name, coding, shape, size in header.tensors:
        try:
            tensors[name] = decode(coding, shape, payload[at : at + size])
        except ValueError as problem:
            raise DamagedEmbedding(
                f"the packed tensor {name!r} cannot be read: {problem}"
            ) from problem
        at += size
    return Embedding(header.head.model_version, header.head.size, tensors, packed)


@dataclass(frozen=True, slots=True)
class _Header:
    """length and check: the payload's; tensors: name, coding, shape, bytes."""

    head: EmbeddingHeader
    length: int
    check: int
    tensors: list[tuple[str, str, tuple[int, ...], int]]


def _header(packed: bytes) -> _Header:
    if len(packed) < HEAD:
        raise DamagedEmbedding(f"a packed embedding has at least {HEAD} bytes, not {len(packed)}")
    magic, version, header_length, length, check, _ = _PREFIX.unpack_from(packed)
    if magic != _MAGIC or version != _VERSION:
        raise DamagedEmbedding(f"not a packed embedding of version {_VERSION}")
    end = _PREFIX.size
    if _check_of(packed[: end - 4], packed[end:HEAD]) != packed[end - 4 : end]:
        raise DamagedEmbedding("the packed embedding's head has a wrong checksum")
    try:
        fields: Any = json.loads(packed[end : end + header_length])
        width, height = fields["size"]
        tensors = [
            (str(n), str(c), tuple(map(_count, shape)), _count(size))
            for n, c, shape, size in fields["tensors"]
        ]
        head = EmbeddingHeader(str(fields["model"]), Size(_count(width), _count(height)))
    except (ValueError, TypeError, KeyError, RecursionError) as problem:
        raise DamagedEmbedding("the packed embedding's header cannot be read") from problem
    if (
        sum(prod(shape) for _, _, shape, _ in tensors) > MOST_VALUES
        or sum(t[3] for t in tensors) != length
    ):
        raise DamagedEmbedding("the packed embedding's header says what cannot be")
    return _Header(head, length, check, tensors)


def _count(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"{number!r} is no count")
    return number


def _check_of(before: bytes, padded: bytes) -> bytes:
    return zlib.crc32(padded, zlib.crc32(before)).to_bytes(4, "little")
