import zlib
from contextlib import suppress
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from samserve.codec import kernel
from samserve.codec.tables import coding_tables
from samserve.codec.tensors import FINENESS, decode, encode
from samserve.native import loader

SAM2 = [(256, 64, 64), (64, 128, 128), (32, 256, 256)]


def smooth(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return a random walk over the last two dimensions, as smooth as features are."""
    noise = np.random.default_rng(seed).normal(size=shape)
    for axis in range(max(0, len(shape) - 2), len(shape)):
        noise = noise + np.roll(noise, 1, axis) + np.roll(noise, 2, axis)
    return noise.astype(np.float16)


def encode_and_decode(tensor: np.ndarray) -> tuple[str, np.ndarray, int]:
    coding, pieces = encode(tensor)
    body = b"".join(pieces)
    return coding, decode(coding, tensor.shape, memoryview(body)), len(body)


def error(tensor: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    return np.abs(decoded.astype(np.float64) - tensor.astype(np.float64))


@pytest.mark.parametrize("shape", SAM2)
def test_each_tensor_of_sam_2_is_compressed_within_its_noise(shape: tuple[int, ...]) -> None:
    tensor = smooth(shape)
    coding, decoded, size = encode_and_decode(tensor)
    assert coding == "q1"
    assert size < 0.43 * tensor.nbytes
    assert decoded.shape == shape
    assert decoded.dtype == np.float16
    assert error(tensor, decoded).max() < 1.2 * tensor.astype(np.float64).std() / FINENESS


@settings(max_examples=60, deadline=None)
@given(
    shape=array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=90).filter(
        lambda s: 4096 <= prod(s) < 200_000
    ),
    scale=st.integers(-14, 9),
    offset=st.integers(-3, 3),
    seed=st.integers(0, 9),
)
def test_no_value_moves_by_more_than_a_step(
    shape: tuple[int, ...], scale: int, offset: int, seed: int
) -> None:
    tensor = (smooth(shape, seed).astype(np.float64) * 2.0**scale + offset * 2.0**scale).astype(
        np.float16
    )
    _, decoded, size = encode_and_decode(tensor)
    assert size <= tensor.nbytes
    step = (
        1.2 * tensor.astype(np.float64).std() / FINENESS
    )  # half a step is 1.09 ** 0.5 / 2 of it for an even tensor
    assert error(tensor, decoded).max() <= max(step, 2.0**-23)


@given(shape=array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=12), seed=st.integers(0, 9))
def test_small_and_empty_tensors_are_kept_exactly(shape: tuple[int, ...], seed: int) -> None:
    tensor = np.random.default_rng(seed).normal(size=shape).astype(np.float16)
    coding, decoded, _ = encode_and_decode(tensor)
    assert coding == "f2"
    assert decoded.shape == shape
    assert np.array_equal(decoded, tensor)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_infinities_and_nan_are_kept_exactly(value: float) -> None:
    tensor = smooth((64, 16, 16))
    tensor[7, 3, 9] = value
    coding, decoded, _ = encode_and_decode(tensor)
    assert coding == "f2"
    assert np.array_equal(decoded, tensor, equal_nan=True)


@pytest.mark.parametrize("value", [0.0, -3.25, 65504.0])
def test_constants_are_kept_exactly(value: float) -> None:
    tensor = np.full((64, 16, 16), value, np.float16)
    assert np.array_equal(encode_and_decode(tensor)[1], tensor)


def test_constant_channels_beside_others_cost_nearly_nothing() -> None:
    tensor = smooth((256, 64, 64))
    half = tensor.copy()
    half[::2] = 1.5
    _, decoded, size = encode_and_decode(half)
    assert size < 0.6 * encode_and_decode(tensor)[2]
    assert error(half, decoded)[::2].max() < half.astype(np.float64).std() / FINENESS


def test_one_huge_value_costs_the_other_channels_little() -> None:
    tensor = smooth((256, 64, 64))
    usual = tensor.astype(np.float64).std()
    tensor[3] *= np.float16(100)
    _, decoded, _ = encode_and_decode(tensor)
    assert error(tensor, decoded)[4:].max() < 2 * usual / FINENESS
    tensor[3, 5, 5] = 65504
    _, decoded, _ = encode_and_decode(tensor)
    assert error(tensor, decoded)[4:].max() < 4 * usual / FINENESS


def test_jumps_that_have_no_symbol_are_kept() -> None:
    tensor = smooth((64, 64, 64))
    leaps = np.random.default_rng(1).random(tensor.shape) < 0.001
    tensor[leaps] = 40 * tensor.astype(np.float64).std()
    coding, decoded, _ = encode_and_decode(tensor)
    assert coding == "q1"
    assert error(tensor, decoded).max() < 2 * tensor.astype(np.float64).std() / FINENESS


@pytest.mark.parametrize("shape", SAM2)
def test_noise_is_no_larger_than_fp16(shape: tuple[int, ...]) -> None:
    tensor = np.random.default_rng(0).normal(size=shape).astype(np.float16)
    assert encode_and_decode(tensor)[2] < 0.5 * tensor.nbytes


def test_encoding_a_decoded_tensor_again_keeps_its_values() -> None:
    _, once, _ = encode_and_decode(smooth((256, 64, 64)))
    _, twice, _ = encode_and_decode(once)
    assert np.array_equal(once, twice)


def test_the_memory_order_of_an_array_does_not_matter() -> None:
    tensor = smooth((64, 32, 16))
    assert np.array_equal(
        encode_and_decode(np.asfortranarray(tensor))[1], encode_and_decode(tensor)[1]
    )


def test_every_instruction_set_encodes_and_decodes_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tensor = smooth((256, 64, 64))
    tensor[5, 5, 5] = 100
    bodies, tensors = [], []
    for level, flags in loader.LEVELS.items():
        if flags <= loader.processor_flags():
            monkeypatch.setattr(loader, "LEVELS", {level: flags})
            kernel.load.cache_clear()
            bodies.append(b"".join(encode(tensor)[1]))
            tensors.append(decode("q1", tensor.shape, memoryview(bodies[0])))
    kernel.load.cache_clear()
    assert tensors
    assert all(np.array_equal(other, tensors[0]) for other in tensors)
    for body in bodies:  # sums in another order may change a weight, but not what the decoder reads
        assert np.array_equal(decode("q1", tensor.shape, memoryview(body)), tensors[0])


def test_the_tables_are_those_of_existing_entries() -> None:
    codes, slots = coding_tables()
    assert zlib.crc32(codes.tobytes()) == 2_400_481_940
    assert zlib.crc32(slots.tobytes()) == 3_566_831_248


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_body_is_refused_or_decoded_to_some_tensor(data: st.DataObject) -> None:
    """The packed form has the checksum; here no byte may lead the decoder out of its arrays."""
    body = bytearray(b"".join(encode(smooth((20, 16, 20)))[1]))
    for _ in range(data.draw(st.integers(1, 5))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([None, 0, 3, 15, 16, 40, 200, len(body) - 1]))
    with suppress(ValueError):
        assert decode("q1", (20, 16, 20), memoryview(body)[:cut]).shape == (20, 16, 20)


@settings(max_examples=100, deadline=None)
@given(
    body=st.binary(max_size=3000),
    shape=st.sampled_from([(20, 16, 20), (1, 4096, 1), (4096, 1, 1), (2, 3, 1024)]),
)
def test_random_bytes_are_refused(body: bytes, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="body"):
        decode("q1", shape, memoryview(body))


@pytest.mark.parametrize("shape", [(), (3,), (10**6,), (2, 10**6), (4, 4, 4)])
def test_a_shape_that_q1_does_not_suit_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        decode("q1", shape, memoryview(bytes(10**5)))


def test_an_unknown_coding_is_refused() -> None:
    with pytest.raises(ValueError, match="q9"):
        decode("q9", (1,), memoryview(b"12"))


def reading(**changes: object) -> dict[str, object]:
    """The fields of a valid call that decodes sixteen planes of 4 x 4."""
    return {
        "planes": 16,
        "height": 4,
        "width": 4,
        "size": 16,
        "steps": np.ones(16, np.float32),
        "offsets": np.zeros(16, np.float32),
        "levels": np.ones(16, np.float32),
        "weights": np.zeros(4, np.float32),
        "table": coding_tables()[1],
        "apart": np.zeros(3, np.int16),
        "bounds": np.array([0, 3]),
        "memory": kernel.vectors(4 * 2 * 5),
        "out": np.zeros((16, 16), np.float16),
        "words": np.zeros(96, np.uint16),
        "count": 96,
    } | changes


def test_arrays_of_the_sizes_that_the_codec_relies_on_are_taken() -> None:
    assert kernel.from_words(**reading()) is False


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 17},
        {"planes": 0},
        {"planes": 17},
        {"width": 5, "size": 20},
        {"steps": np.ones(15, np.float32)},
        {"steps": np.ones(16)},
        {"levels": np.zeros(16, np.float32)},
        {"levels": np.full(16, np.nan, np.float32)},
        {"weights": np.zeros(3, np.float32)},
        {"table": coding_tables()[1][:-1]},
        {"bounds": np.array([0, 4])},
        {"bounds": np.array([-1, 3])},
        {"bounds": np.array([0, 3, 3])},
        {"memory": kernel.vectors(4 * 2 * 5 - 1)},
        {"memory": np.zeros(40 * 16 + 1, np.float32)[1:]},
        {"out": np.zeros((16, 32), np.float16)[:, ::2]},
        {"out": np.zeros((15, 16), np.float16)},
        {"count": 97},
        {"words": 3},
    ],
)
def test_an_array_of_another_size_or_type_never_reaches_the_codec(
    changes: dict[str, object],
) -> None:
    with pytest.raises(ValueError, match=r"kernel needs|planes|level|bounds|aligned|gaps|number"):
        kernel.from_words(**reading(**changes))


def test_statistics_of_planes_of_another_type_are_refused() -> None:
    with pytest.raises(ValueError, match="planes"):
        kernel.measure(np.zeros((4, 8), np.float32))
    with pytest.raises(ValueError, match="means"):
        kernel.correlate(np.zeros((4, 8), np.float16), 2, 4, np.zeros(3, np.float32))
