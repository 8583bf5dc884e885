import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samserve.codec.packed import HEADER_BYTES, DamagedEmbedding, pack, unpack, unpack_header
from samserve.codec.tensors import FINENESS
from samserve.core.embedding import Embedding, EmbeddingContract, SizeLimits
from samserve.core.geometry import Size

rng = np.random.default_rng(0)
PREFIX = struct.Struct("<4sBHIII")
PLAIN = Embedding("nano-1", Size(640, 427), {"few": rng.normal(size=(5, 4)).astype(np.float16)})
LARGE = Embedding(
    "nano-1",
    Size(640, 427),
    {
        "embedding": rng.normal(size=(64, 16, 16)).astype(np.float16),
        "fine": rng.normal(size=(32, 32, 32)).astype(np.float16),
        "few": rng.normal(size=(5, 4)).astype(np.float16),
    },
)
PACKED = pack(LARGE)


def entry_with(header: Any, payload: bytes = b"") -> bytes:
    """Return an entry with valid checksums."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    padded = text.ljust(HEADER_BYTES - PREFIX.size)
    before = PREFIX.pack(b"SAME", 2, len(text), len(payload), zlib.crc32(payload), 0)[:-4]
    return before + zlib.crc32(before + padded).to_bytes(4, "little") + padded + payload


def valid_header(**changes: Any) -> dict[str, Any]:
    return {"model": "m", "size": [4, 3], "tensors": [["a", "f2", [2], 4]]} | changes


def test_an_embedding_survives_packing() -> None:
    after = unpack(PACKED)
    assert (after.model_version, after.size, list(after.tensors)) == (
        "nano-1",
        Size(640, 427),
        list(LARGE.tensors),
    )
    for name, tensor in LARGE.tensors.items():
        assert after.tensors[name].shape == tensor.shape
        assert np.allclose(after.tensors[name], tensor, atol=1.2 / FINENESS)
    assert np.array_equal(after.tensors["few"], LARGE.tensors["few"])


def test_an_embedding_packed_exactly_is_equal_to_the_bit() -> None:
    packed = pack(LARGE, "exact")
    assert all(
        np.array_equal(unpack(packed).tensors[name], tensor)
        for name, tensor in LARGE.tensors.items()
    )
    assert len(packed) > len(PACKED)
    assert pack(unpack(packed)) is packed


def test_an_embedding_without_tensors_survives_packing() -> None:
    assert unpack(pack(Embedding("m", Size(1, 1), {}))) == Embedding("m", Size(1, 1), {})


def test_the_header_is_read_without_the_tensors() -> None:
    head = unpack_header(PACKED[:HEADER_BYTES])
    assert (head.model_version, head.size) == ("nano-1", Size(640, 427))


@settings(max_examples=300, deadline=None)
@given(bit=st.integers(0, 8 * len(PACKED) - 1))
def test_one_flipped_bit_is_detected(bit: int) -> None:
    packed = bytearray(PACKED)
    packed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedEmbedding):
        unpack(bytes(packed))


def test_every_flipped_bit_of_the_header_is_detected_from_the_header() -> None:
    for bit in range(8 * HEADER_BYTES):
        packed = bytearray(PACKED[:HEADER_BYTES])
        packed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedEmbedding):
            unpack_header(bytes(packed))


@given(length=st.integers(0, len(PACKED) - 1))
def test_a_truncated_entry_is_detected(length: int) -> None:
    with pytest.raises(DamagedEmbedding):
        unpack(PACKED[:length])


def test_trailing_bytes_are_detected() -> None:
    with pytest.raises(DamagedEmbedding):
        unpack(PACKED + b"\0")


@given(st.binary(min_size=1, max_size=2000))
def test_bytes_that_are_no_entry_are_detected(data: bytes) -> None:
    for invalid in (data, PACKED[:5] + data, data + PACKED):
        with pytest.raises(DamagedEmbedding):
            unpack(invalid)


def test_an_entry_of_an_older_version_is_refused() -> None:
    with pytest.raises(DamagedEmbedding, match="version"):
        unpack(b"SAME\1" + PACKED[5:])


@pytest.mark.parametrize(
    "header",
    [
        "",
        "[",
        "[[[" * 100,
        "1e999",
        "null",
        '"SAME"',
        [],
        {},
        valid_header(size=[4]),
        valid_header(size=[4, -3]),
        valid_header(size=[4.5, 3]),
        valid_header(size=[True, 3]),
        valid_header(size="43"),
        valid_header(tensors=7),
        valid_header(tensors=[7]),
        valid_header(tensors=[["a", "f2", [2]]]),
        valid_header(tensors=[["a", "f2", "2", 4]]),
        valid_header(tensors=[["a", "f2", [3], 4]]),
        valid_header(tensors=[["a", "f2", [-2], 4]]),
        valid_header(tensors=[["a", "f2", [2], -4]]),
        valid_header(tensors=[["a", "f2", [2], 4], ["b", "f2", [2], 0]]),
        valid_header(tensors=[["a", "<f8", [2], 4]]),
        valid_header(tensors=[["a", "q1", [2], 4]]),
        valid_header(tensors=[["a", "q1", [64, 64, 64], 4]]),
        valid_header(tensors=[["a", "q1", [2**40, 64, 64], 4]]),
        valid_header(tensors=[["a", "q1", [2**63, 2**63, 2**63], 4]]),
        valid_header(tensors=[["a", "q1", [2**12, 2**12, 1024], 4]]),
        valid_header(tensors=[["a", "q1", [0, 2**70, 3], 4]]),
    ],
)
def test_an_impossible_header_is_refused(header: Any) -> None:
    with pytest.raises(DamagedEmbedding):
        unpack(entry_with(header, b"1234"))


def test_a_valid_header_is_read() -> None:
    assert unpack(entry_with(valid_header(), b"1234")).tensors["a"].shape == (2,)


@settings(max_examples=100, deadline=None)
@given(payload=st.binary(max_size=4000))
def test_an_invalid_payload_behind_a_valid_header_is_refused(payload: bytes) -> None:
    with pytest.raises(DamagedEmbedding):
        unpack(entry_with(valid_header(tensors=[["a", "q1", [64, 16, 16], len(payload)]]), payload))


def test_an_embedding_with_too_large_a_header_or_tensor_is_refused() -> None:
    with pytest.raises(ValueError, match="header"):
        pack(Embedding("m" * HEADER_BYTES, Size(1, 1), {}))
    with pytest.raises(ValueError, match="values"):
        pack(Embedding("m", Size(1, 1), {"a": np.broadcast_to(np.float16(0), (2**26,))}))


def test_unpacking_copies_no_plain_tensor() -> None:
    packed = pack(PLAIN)
    assert all(
        np.shares_memory(t, np.frombuffer(packed, np.uint8))
        for t in unpack(packed).tensors.values()
    )


def test_an_unpacked_embedding_keeps_its_bytes() -> None:
    assert pack(unpack(PACKED)) is PACKED


CONTRACT = EmbeddingContract({"embedding": (8, 16, 16)}, SizeLimits(1_000_000, 64))


def hostile(
    name: str = "embedding",
    shape: tuple[int, ...] = (8, 16, 16),
    size: tuple[int, int] = (640, 427),
    value: float = 0,
    **more: np.ndarray,
) -> bytes:
    """Return a well-formed entry that another program may have written."""
    tensor = np.full(shape, value, np.float16)
    return pack(Embedding("m", Size(*size), {name: tensor, **more}), "exact")


def test_an_entry_within_its_contract_is_unpacked() -> None:
    assert unpack(hostile(), CONTRACT).size == Size(640, 427)
    assert unpack_header(hostile(), CONTRACT).size == Size(640, 427)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (hostile(shape=(8, 2, 2)), "expected"),
        (hostile(shape=(8, 32, 32)), "expected"),
        (hostile(shape=(7, 16, 16)), "expected"),
        (hostile(shape=(1, 8, 16, 16)), "expected"),
        (hostile(shape=(8, 256)), "expected"),
        (hostile(name="fine_1"), "expected"),
        (hostile(more=np.zeros(1, np.float16)), "expected"),
        (hostile(size=(10**9, 10**9)), "limits are 1,000,000 pixels"),
        (hostile(size=(10**30, 10**30)), "limits"),
        (hostile(size=(1001, 1000)), "limits"),
        (hostile(size=(6500, 100)), "side ratio of 64:1"),
        (hostile(size=(0, 100)), "limits"),
    ],
)
def test_a_well_formed_entry_of_another_kind_is_damaged(entry: bytes, problem: str) -> None:
    unpack(entry)
    for read in (unpack, unpack_header):
        with pytest.raises(DamagedEmbedding, match=problem):
            read(entry, CONTRACT)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, -np.nan])
def test_an_entry_with_a_value_that_is_no_finite_number_is_damaged(value: float) -> None:
    with pytest.raises(DamagedEmbedding, match="finite"):
        unpack(hostile(value=value))


@pytest.mark.parametrize("value", [65504, -65504, 6e-8, -0.0])
def test_extreme_but_finite_values_are_unpacked(value: float) -> None:
    assert (unpack(hostile(value=value)).tensors["embedding"] == np.float16(value)).all()


def test_two_tensors_of_one_name_are_damaged() -> None:
    header = valid_header(tensors=[["a", "f2", [2], 4], ["a", "f2", [2], 4]])
    with pytest.raises(DamagedEmbedding):
        unpack(entry_with(header, b"12345678"))
