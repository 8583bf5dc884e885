"""An image's embedding, and the one form in which it is cached and sent.

Packed layout, little-endian: magic `SAME`, format version u8, header length u16, payload length u32, CRC-32 of header
and payload u32; then the header (JSON: model version, oriented size, tensors' names, dtypes and shapes), padded with
spaces to HEAD bytes in all; then the tensors one after another. The head alone can be read without the payload.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samserve.core.geometry import Size

HEAD = 512
_MAGIC, _FORMAT = b"SAME", 1
_PREFIX = struct.Struct("<4sBHII")


class DamagedEmbedding(ValueError):
    """Packed bytes that are not an embedding of this format, or not whole."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """tensors: name -> fp16 array, for SAM {"embedding": [256, 64, 64]}; size: the oriented source image's."""

    model_version: str
    size: Size
    tensors: dict[str, NDArray[np.float16]]

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors.values())


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of a cached embedding without its tensors."""

    model_version: str
    size: Size


def pack(embedding: Embedding) -> bytes:
    """Serialise. Raises ValueError if the header does not fit."""
    tensors = {n: np.ascontiguousarray(t, "<f2") for n, t in embedding.tensors.items()}
    header = json.dumps(
        {
            "model": embedding.model_version,
            "size": [embedding.size.width, embedding.size.height],
            "tensors": [[name, t.shape] for name, t in tensors.items()],
        },
        separators=(",", ":"),
    ).encode()
    if len(header) > HEAD - _PREFIX.size:
        raise ValueError(f"an embedding's header of {len(header)} bytes does not fit {HEAD - _PREFIX.size}")
    padded = header.ljust(HEAD - _PREFIX.size)
    check, length = zlib.crc32(padded), 0
    for tensor in tensors.values():
        check, length = zlib.crc32(tensor.data, check), length + tensor.nbytes
    prefix = _PREFIX.pack(_MAGIC, _FORMAT, len(header), length, check)
    return b"".join([prefix, padded, *(t.data for t in tensors.values())])


def unpack_head(packed: bytes) -> Head:
    """Read the first HEAD bytes. Raises DamagedEmbedding."""
    header, _, _ = _header(packed)
    return _head(header)


def unpack(packed: bytes) -> Embedding:
    """Read it all, without copying the tensors. Raises DamagedEmbedding."""
    header, length, check = _header(packed)
    if len(packed) != HEAD + length or zlib.crc32(memoryview(packed)[_PREFIX.size :]) != check:
        raise DamagedEmbedding("the packed embedding's length or checksum is wrong")
    tensors, offset = {}, HEAD
    for name, shape in header["tensors"]:
        count = int(np.prod(shape))
        tensors[name] = np.frombuffer(packed, "<f2", count, offset).reshape(shape)
        offset += 2 * count
    head = _head(header)
    return Embedding(head.model_version, head.size, tensors)


def _header(packed: bytes) -> tuple[dict[str, Any], int, int]:
    if len(packed) < HEAD:
        raise DamagedEmbedding(f"a packed embedding has at least {HEAD} bytes, not {len(packed)}")
    magic, version, header_length, length, check = _PREFIX.unpack_from(packed)
    if magic != _MAGIC or version != _FORMAT:
        raise DamagedEmbedding(f"not a packed embedding of format {_FORMAT}")
    try:
        header = json.loads(packed[_PREFIX.size : _PREFIX.size + header_length])
    except ValueError as problem:
        raise DamagedEmbedding("the packed embedding's header cannot be read") from problem
    return header, length, check


def _head(header: dict[str, Any]) -> Head:
    try:
        return Head(str(header["model"]), Size(*header["size"]))
    except (KeyError, TypeError) as problem:
        raise DamagedEmbedding("the packed embedding's header lacks a field") from problem
