import numpy as np
import pytest
from samserve.codec.packed import HEADER_BYTES, DamagedEmbedding, pack
from samserve.core.embedding import Embedding
from samserve.core.geometry import Size
from samserve.infra.cache_options import CacheOptions
from samserve.infra.seal import SEAL_BYTES, Seal

SECRET = "correct horse battery"  # noqa: S105
KEY = "samserve:public:nano-1:" + "ab" * 32
PACKED = pack(Embedding("nano-1", Size(4, 3), {"embedding": np.ones((4, 8, 8), np.float16)}))
SEAL = Seal(SECRET)
ENTRY = SEAL.close(KEY, PACKED)


def test_a_sealed_entry_is_opened_with_its_key_and_secret() -> None:
    assert Seal(SECRET).open(KEY, ENTRY) == PACKED
    assert SEAL.open_header(KEY, ENTRY[: SEAL.header_bytes]) == PACKED[:HEADER_BYTES]
    assert len(ENTRY) == len(PACKED) + SEAL_BYTES


def test_without_a_secret_entries_are_as_before() -> None:
    plain = Seal()
    assert plain.close(KEY, PACKED) is PACKED
    assert plain.open(KEY, PACKED) is PACKED
    assert plain.header_bytes == HEADER_BYTES


@pytest.mark.parametrize(
    ("key", "entry"),
    [
        (KEY, PACKED),  # no seal
        (KEY, Seal("another secret, as long").close(KEY, PACKED)),
        (KEY.replace("public", "other"), ENTRY),  # another tenant's
        (KEY.replace("nano-1", "nano-2"), ENTRY),
        (KEY.replace("ab", "cd"), ENTRY),
        (KEY, ENTRY[:-1]),
        (KEY, ENTRY + b"\0"),
        (KEY, ENTRY[:SEAL_BYTES]),
        (KEY, ENTRY[:5]),
        (KEY, b""),
    ],
)
def test_an_entry_that_is_not_sealed_for_this_key_is_damaged(key: str, entry: bytes) -> None:
    with pytest.raises(DamagedEmbedding):
        SEAL.open(key, entry)


def test_every_changed_byte_is_detected() -> None:
    for at in range(len(ENTRY)):
        changed = bytearray(ENTRY)
        changed[at] ^= 1
        with pytest.raises(DamagedEmbedding):
            SEAL.open(KEY, bytes(changed))
        if at < SEAL.header_bytes:
            with pytest.raises(DamagedEmbedding):
                SEAL.open_header(KEY, bytes(changed[: SEAL.header_bytes]))


def test_the_secret_is_not_printed() -> None:
    assert SECRET not in repr(CacheOptions("redis://cache", 1, 1, secret=SECRET))
