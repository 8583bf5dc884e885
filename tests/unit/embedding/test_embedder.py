import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from fakes import FakeCache, FakeEncoder
from PIL import Image
from samserve.core.embedding import Embedding, Head
from samserve.core.errors import EmbeddingNotCached, InvalidInput, ModelNotFound, ModelVersionMismatch, Unavailable
from samserve.core.geometry import Size
from samserve.core.image import Limits
from samserve.core.image_id import image_id
from samserve.core.telemetry import StageClock
from samserve.embedding.embedder import Embedder, EmbedOrder


def picture(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (30, 20), (shade, shade, shade)).save(out, "PNG")
    return out.getvalue()


def order(data: bytes | None, name: str = "", **changes: object) -> EmbedOrder:
    return replace(EmbedOrder("public", "", data, name, want_tensors=False), **changes)


@pytest.fixture
def cache() -> FakeCache:
    return FakeCache()


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def embedder(cache: FakeCache, encoder: FakeEncoder) -> Embedder:
    return Embedder(cache, encoder, Limits(max_bytes=10_000), ThreadPoolExecutor(1))


async def test_same_image_sent_twice_is_encoded_once(embedder: Embedder, encoder: FakeEncoder) -> None:
    first = await embedder.embed(order(picture(9)), StageClock())
    second = await embedder.embed(order(picture(9)), StageClock())
    assert (first.hit, second.hit, encoder.encoded) == (False, True, 1)
    assert first.image_id == second.image_id == image_id(picture(9))
    assert second.found == Head("nano-test", Size(30, 20))


async def test_an_image_can_be_asked_for_by_id_alone_once_it_is_known(embedder: Embedder) -> None:
    name = image_id(picture(9))
    with pytest.raises(EmbeddingNotCached):
        await embedder.embed(order(None, name), StageClock())
    await embedder.embed(order(picture(9)), StageClock())
    assert (await embedder.embed(order(None, name), StageClock())).hit


async def test_two_tenants_never_share_an_entry(embedder: Embedder, encoder: FakeEncoder) -> None:
    await embedder.embed(order(picture(9)), StageClock())
    other = await embedder.embed(order(picture(9), tenant="other"), StageClock())
    assert (other.hit, encoder.encoded) == (False, 2)


async def test_without_a_cache_every_image_is_encoded_and_none_fails(
    embedder: Embedder, cache: FakeCache, encoder: FakeEncoder
) -> None:
    cache.down = True
    for _ in range(2):
        done = await embedder.embed(order(picture(9), want_tensors=True), StageClock())
        assert isinstance(done.found, Embedding)
    assert encoder.encoded == 2


async def test_an_unknown_model_is_refused_with_the_list(embedder: Embedder) -> None:
    with pytest.raises(ModelNotFound, match="nano") as caught:
        await embedder.embed(order(picture(9), model="sam9"), StageClock())
    assert caught.value.known == ["nano"]


async def test_a_reference_of_another_model_version_is_refused_with_both(embedder: Embedder) -> None:
    with pytest.raises(ModelVersionMismatch) as caught:
        await embedder.embed(order(None, image_id(picture(9)), model_version="old"), StageClock())
    assert (caught.value.asked, caught.value.served) == ("old", "nano-test")


@pytest.mark.parametrize(
    ("data", "name", "field"),
    [(b"", "", "data"), (b"x" * 10_001, "", "data"), (b"no image", "", "data"), (None, "short", "image_id")],
)
async def test_bad_images_are_refused_by_field(embedder: Embedder, data: bytes | None, name: str, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await embedder.embed(order(data, name), StageClock())
    assert caught.value.field == field


async def test_a_failed_encode_is_not_remembered(embedder: Embedder, encoder: FakeEncoder) -> None:
    encoder.failure = Unavailable("Triton is away")
    with pytest.raises(Unavailable):
        await embedder.embed(order(picture(9)), StageClock())
    encoder.failure = None
    assert not (await embedder.embed(order(picture(9)), StageClock())).hit


async def test_stages_are_timed(embedder: Embedder) -> None:
    clock = StageClock()
    await embedder.embed(order(picture(9)), clock)
    assert list(clock.milliseconds) == ["hash", "lookup", "decode", "encode", "store"]
