from collections.abc import Iterable

import numpy as np
import pytest
from samserve.client.embedding_reader import TensorReader
from samserve.core.embedding import Embedding
from samserve.core.errors import Unavailable
from samserve.core.geometry import Size
from samserve.embedding.embedding_chunks import CHUNK, messages
from samserve.v1 import embedding_pb2 as pb

RNG = np.random.default_rng(4)


def read_tensors(sent: Iterable[pb.GetEmbeddingResponse]) -> Embedding:
    reader = TensorReader()
    for message in sent:
        reader.read(message)
    return reader.embedding()


def embedding(**shapes: tuple[int, ...]) -> Embedding:
    tensors = {name: RNG.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}
    return Embedding("v1", Size(30, 20), tensors)


def test_the_header_describes_the_chunks() -> None:
    sent = embedding(high=(32, 64, 64), low=(256, 64, 64))
    header, *chunks = messages("ab", sent)
    image = header.header.image
    assert (image.image_id, image.model_version, image.width, image.height) == ("ab", "v1", 30, 20)
    tensors = [(t.name, t.data_type, tuple(t.shape)) for t in header.header.tensors]
    assert tensors == [
        ("high", pb.DATA_TYPE_FLOAT16, (32, 64, 64)),
        ("low", pb.DATA_TYPE_FLOAT16, (256, 64, 64)),
    ]
    received = [bytearray(2 * 32 * 64 * 64), bytearray(2 * 256 * 64 * 64)]
    for message in chunks:
        part = message.chunk
        assert 0 < len(part.data) <= CHUNK
        received[part.tensor][part.offset : part.offset + len(part.data)] = part.data
    assert received == [tensor.astype("<f2").tobytes() for tensor in sent.tensors.values()]


@pytest.mark.parametrize("shape", [(256, 64, 64), (3, 5, 7), (256, 64, 65), (1,)])
def test_tensors_survive_a_round_trip(shape: tuple[int, ...]) -> None:
    sent = embedding(one=shape, two=(2, 3))
    got = read_tensors(messages("ab", sent))
    assert (got.model_version, got.size, list(got.tensors)) == ("v1", Size(30, 20), ["one", "two"])
    assert all(np.array_equal(got.tensors[name], sent.tensors[name]) for name in sent.tensors)


def test_a_tensor_that_is_not_contiguous_is_sent_in_its_own_order() -> None:
    turned = Embedding("v1", Size(3, 2), {"t": embedding(t=(4, 6)).tensors["t"].T})
    assert np.array_equal(read_tensors(messages("ab", turned)).tensors["t"], turned.tensors["t"])


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_a_truncated_stream_is_detected(kept: int) -> None:
    sent = list(messages("ab", embedding(one=(256, 64, 64))))
    with pytest.raises(Unavailable, match="complete"):
        read_tensors(sent[:kept])
