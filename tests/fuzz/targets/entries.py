"""Any entry of the cache is an embedding that can be prepared, or is damaged."""

from __future__ import annotations

import json
import struct
import zlib
from math import prod

import numpy as np
from fuzz.values import CONTRACT, small_decoder
from samserve.codec.packed import HEADER_BYTES, DamagedEmbedding, pack, unpack, unpack_header
from samserve.infra.seal import Seal

MOST_BYTES = 16_384
PREFIX = struct.Struct("<4sBHIII")
SEAL = Seal("a secret for fuzzing")
PREPARED = 32  # one in so many valid entries is prepared


def check(data: bytes) -> None:
    if not data:
        return
    how, entry = data[0], data[1:]
    for read in (lambda: SEAL.open("key", entry), lambda: SEAL.open_header("key", entry)):
        try:
            read()
        except DamagedEmbedding:
            continue
        raise AssertionError("a seal was forged")

    # Most mutations are found by the checksums, so most entries get right ones. Half of them get
    # a right header as well, so that the payload is decoded.
    if how % 8:
        header, payload = entry[PREFIX.size : HEADER_BYTES], entry[HEADER_BYTES:]
        entry = with_checksums(valid_header(len(payload)) if how % 8 > 3 else header, payload)
    try:
        unpack_header(entry, CONTRACT)
        embedding = unpack(entry, CONTRACT)
    except DamagedEmbedding:
        return

    assert embedding.tensors.keys() == CONTRACT.shapes.keys()
    for name, tensor in embedding.tensors.items():
        assert tensor.shape == CONTRACT.shapes[name]
        assert np.isfinite(tensor).all()
    assert pack(embedding) is entry
    if zlib.crc32(entry) % PREPARED == 0:
        small_decoder().prepare(embedding)


def valid_header(length: int) -> bytes:
    """Return the header of an entry whose only tensor has `length` bytes."""
    (tensor,) = CONTRACT.shapes.items()
    name, shape = tensor
    tensors = [[name, "f2" if length == 2 * prod(shape) else "q1", shape, length]]
    return json.dumps({"model": "m", "size": [320, 200], "tensors": tensors}).encode()


def with_checksums(header: bytes, payload: bytes) -> bytes:
    """Return an entry with the lengths and checksums that belong to its header and payload."""
    header = header.ljust(HEADER_BYTES - PREFIX.size)
    text = header.rstrip()
    before = PREFIX.pack(b"SAME", 2, len(text), len(payload), zlib.crc32(payload), 0)[:-4]
    check_sum = zlib.crc32(header, zlib.crc32(before)).to_bytes(4, "little")
    return before + check_sum + header + payload
