"""The packed form of an embedding, in which it is cached and sent.

Little-endian:

    magic "SAME", version u8, length of the header u16, length of the payload u32
    CRC-32 of the payload u32
    CRC-32 of all that stands before, and of the padded header, u32
    header, padded with spaces to HEADER_BYTES in all
    tensors, one after another, coded as tensors.py describes

The header is JSON: the model version, the size of the oriented image, and for each tensor its name,
coding, shape and bytes. It can be read without the payload.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from samserve.codec.tensors import Body, Coding, decode, encode
from samserve.core.arrays import Halves
from samserve.core.embedding import Contract, Embedding, EmbeddingHeader
from samserve.core.geometry import Size

HEADER_BYTES = 512
MOST_VALUES = 2**25  # in one embedding; SAM 2 has 4 million
MOST_TENSORS = 16  # in one embedding; SAM 2 has 3
INFINITY_BITS, SIGN_BIT = 0x7C00, 0x8000  # of fp16
_MAGIC, _VERSION = b"SAME", 2
_PREFIX = struct.Struct("<4sBHIII")


class DamagedEmbedding(ValueError):
    """The bytes are not a packed embedding, or not a whole one."""


def pack(embedding: Embedding, coding: Coding = "small") -> bytes:
    """Pack an embedding; one that was unpacked keeps its bytes.

    Raises:
        ValueError: The embedding or its header is too large.
    """
    if embedding.packed:
        return embedding.packed
    if sum(tensor.size for tensor in embedding.tensors.values()) > MOST_VALUES:
        raise ValueError(f"the embedding has more than {MOST_VALUES:,} values")

    # Payload.
    tensors: list[tuple[str, str, tuple[int, ...], int]] = []
    payload: Body = []
    check, length = 0, 0
    for name, tensor in embedding.tensors.items():
        written, body = encode(tensor, coding)
        for piece in body:
            check = zlib.crc32(piece, check)
        size = sum(memoryview(piece).nbytes for piece in body)
        tensors.append((name, written, tensor.shape, size))
        payload += body
        length += size

    # Header.
    facts = {
        "model": embedding.model_version,
        "size": [embedding.size.width, embedding.size.height],
        "tensors": tensors,
    }
    header = json.dumps(facts, separators=(",", ":")).encode()
    if len(header) > HEADER_BYTES - _PREFIX.size:
        raise ValueError(
            f"the embedding's header has {len(header)} bytes, "
            f"more than {HEADER_BYTES - _PREFIX.size}"
        )
    padded = header.ljust(HEADER_BYTES - _PREFIX.size)
    before = _PREFIX.pack(_MAGIC, _VERSION, len(header), length, check, 0)[:-4]
    return b"".join([before, _checksum(before, padded), padded, *payload])


def unpack_header(packed: bytes, contract: Contract | None = None) -> EmbeddingHeader:
    """Unpack the first HEADER_BYTES. Raises DamagedEmbedding, as `unpack` does."""
    return _read_header(packed, contract).facts


def unpack(packed: bytes, contract: Contract | None = None) -> Embedding:
    """Unpack an embedding; plain fp16 tensors are views of the bytes.

    Takes milliseconds, so call it from a thread.

    Args:
        packed: Bytes of any origin.
        contract: What the embedding must be like; checked before the tensors are decoded.

    Raises:
        DamagedEmbedding: The bytes are damaged, break the contract, or have a value that is not a
            finite number.
    """
    header = _read_header(packed, contract)
    payload = memoryview(packed)[HEADER_BYTES:]
    if len(payload) != header.length or zlib.crc32(payload) != header.check:
        raise DamagedEmbedding("wrong length or checksum of the packed embedding")

    tensors, at = {}, 0
    for name, coding, shape, size in header.tensors:
        try:
            tensors[name] = decode(coding, shape, payload[at : at + size])
        except ValueError as problem:
            raise DamagedEmbedding(f"damaged tensor {name!r}: {problem}") from problem
        if not _is_finite(tensors[name]):
            raise DamagedEmbedding(f"tensor {name!r} has a value that is not a finite number")
        at += size
    return Embedding(header.facts.model_version, header.facts.size, tensors, packed)


@dataclass(frozen=True, slots=True)
class _Header:
    """The header of a packed embedding.

    Attributes:
        facts: The embedding without its tensors.
        length: Bytes of the payload.
        check: CRC-32 of the payload.
        tensors: Name, coding, shape and bytes of each tensor.
    """

    facts: EmbeddingHeader
    length: int
    check: int
    tensors: list[tuple[str, str, tuple[int, ...], int]]


def _read_header(packed: bytes, contract: Contract | None) -> _Header:
    if len(packed) < HEADER_BYTES:
        raise DamagedEmbedding(
            f"a packed embedding has at least {HEADER_BYTES} bytes, not {len(packed)}"
        )

    # Prefix and checksum.
    magic, version, header_length, length, check, _ = _PREFIX.unpack_from(packed)
    if magic != _MAGIC or version != _VERSION:
        raise DamagedEmbedding(f"not a packed embedding of version {_VERSION}")
    end = _PREFIX.size
    if _checksum(packed[: end - 4], packed[end:HEADER_BYTES]) != packed[end - 4 : end]:
        raise DamagedEmbedding("wrong checksum of the packed embedding's header")

    # Fields.
    try:
        fields: Any = json.loads(packed[end : end + header_length])
        width, height = fields["size"]
        tensors = [
            (str(name), str(coding), tuple(map(_natural, shape)), _natural(size))
            for name, coding, shape, size in fields["tensors"]
        ]
        facts = EmbeddingHeader(str(fields["model"]), Size(_natural(width), _natural(height)))
    except (ValueError, TypeError, KeyError, RecursionError) as problem:
        raise DamagedEmbedding("unreadable header of the packed embedding") from problem

    # Sizes that would take too much memory, or that contradict each other.
    shapes = {name: shape for name, _, shape, _ in tensors}
    values = sum(prod(shape) for _, _, shape, _ in tensors)
    if (
        values > MOST_VALUES
        or sum(size for *_, size in tensors) != length
        or len(tensors) > MOST_TENSORS
        or len(shapes) < len(tensors)
    ):
        raise DamagedEmbedding("impossible sizes in the packed embedding's header")

    if contract and (breach := contract.problem(facts.size, shapes)):
        raise DamagedEmbedding(f"the embedding is of {breach}")
    return _Header(facts, length, check, tensors)


def _is_finite(tensor: Halves) -> bool:
    """Return whether no value is infinite or NaN.

    Such a value has all five bits of the exponent set. Among the numbers of its sign it is then the
    largest, as a signed integer without the sign bit and as an unsigned one with it.
    """
    if not tensor.size:
        return True
    return bool(
        tensor.view(np.int16).max() < INFINITY_BITS
        and tensor.view(np.uint16).max() < SIGN_BIT + INFINITY_BITS
    )


def _natural(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"{number!r} is not a natural number")
    return number


def _checksum(before: bytes, padded: bytes) -> bytes:
    return zlib.crc32(padded, zlib.crc32(before)).to_bytes(4, "little")
