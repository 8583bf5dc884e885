import numpy as np
import pytest
from samserve.core.embedding import HEAD, DamagedEmbedding, Embedding, pack, unpack, unpack_head
from samserve.core.geometry import Size

rng = np.random.default_rng(0)


def bundle() -> Embedding:
    tensors = {
        "embedding": rng.normal(size=(256, 8, 8)).astype(np.float16),
        "fine": rng.normal(size=(32, 16, 16)).astype(np.float16),
    }
    return Embedding("nano-1", Size(640, 427), tensors)


def test_an_embedding_survives_packing() -> None:
    before = bundle()
    after = unpack(pack(before))
    assert (after.model_version, after.size, list(after.tensors)) == ("nano-1", Size(640, 427), ["embedding", "fine"])
    for name, tensor in before.tensors.items():
        assert np.array_equal(after.tensors[name], tensor)


def test_its_head_is_read_without_its_tensors() -> None:
    head = unpack_head(pack(bundle())[:HEAD])
    assert (head.model_version, head.size) == ("nano-1", Size(640, 427))


@pytest.mark.parametrize("position", [0, 4, 5, 9, 12, 40, HEAD + 3, -1])
def test_one_wrong_byte_is_noticed(position: int) -> None:
    packed = bytearray(pack(bundle()))
    packed[position] ^= 0x41
    with pytest.raises(DamagedEmbedding):
        unpack(bytes(packed))


@pytest.mark.parametrize("length", [0, 10, HEAD, HEAD + 100])
def test_a_part_of_it_is_noticed(length: int) -> None:
    with pytest.raises(DamagedEmbedding):
        unpack(pack(bundle())[:length])


def test_unpacking_copies_no_tensor() -> None:
    packed = pack(bundle())
    assert all(np.shares_memory(t, np.frombuffer(packed, np.uint8)) for t in unpack(packed).tensors.values())
