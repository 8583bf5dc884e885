import asyncio
import io
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from fakes import FakeCache, FakeEncoder, InProcessDecoder
from PIL import Image
from prometheus_client import REGISTRY
from samserve.codec.packed import HEADER_BYTES
from samserve.codec.tensors import Coding
from samserve.core.cache_status import CacheStatus
from samserve.core.crop import Crop, crop_id
from samserve.core.embedding import Embedding, EmbeddingHeader
from samserve.core.errors import (
    DeadlinePassed,
    EmbeddingNotCached,
    InvalidInput,
    ModelNotFound,
    ModelVersionMismatch,
    Overloaded,
    Unavailable,
)
from samserve.core.geometry import Size
from samserve.core.image import Limits
from samserve.core.image_id import image_id
from samserve.core.image_request import ImageRequest
from samserve.embedding.admission import EncodeSlots, Priority
from samserve.embedding.claims import ReplicaClaims
from samserve.embedding.embedder import Embedder, EmbedResult, FetchResult
from samserve.infra.cache import CacheKey
from samserve.infra.stages import StageClock


def picture(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (30, 20), (shade, shade, shade)).save(out, "PNG")
    return out.getvalue()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for an event. The cap only stops a test that would wait forever."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


def waiting() -> float:
    """Images that wait for a slot, by the metric."""
    return REGISTRY.get_sample_value("samserve_embed_waiting", {"priority": "interactive"}) or 0.0


def order(data: bytes | None, name: str = "", **changes: object) -> ImageRequest:
    return replace(ImageRequest("public", "", data, name), **changes)


@pytest.fixture
def cache() -> FakeCache:
    return FakeCache()


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def embedder(cache: FakeCache, encoder: FakeEncoder) -> Embedder:
    return replica(cache, encoder)


def replica(cache: FakeCache, encoder: FakeEncoder, coding: Coding = "small") -> Embedder:
    limits = Limits(max_bytes=10_000, max_pixels=100_000_000, max_aspect=64)
    return Embedder(
        cache,
        ReplicaClaims(cache, patience=60),
        EncodeSlots(slots=2, queue=2),
        encoder,
        InProcessDecoder(limits),
        limits=limits,
        pool=ThreadPoolExecutor(1),
        coding=coding,
    )


async def test_same_image_sent_twice_is_encoded_once(
    embedder: Embedder, encoder: FakeEncoder
) -> None:
    first = await embedder.embed(order(picture(9)), StageClock())
    second = await embedder.embed(order(picture(9)), StageClock())
    assert (first.status, second.status, encoder.encoded) == (CacheStatus.MISS, CacheStatus.HIT, 1)
    assert first.image_id == second.image_id == image_id(picture(9))
    assert second.header == EmbeddingHeader("nano-test", Size(30, 20))


async def test_an_image_can_be_asked_for_by_id_alone_once_it_is_known(embedder: Embedder) -> None:
    name = image_id(picture(9))
    with pytest.raises(EmbeddingNotCached):
        await embedder.embed(order(None, name), StageClock())
    await embedder.embed(order(picture(9)), StageClock())
    assert (await embedder.embed(order(None, name), StageClock())).status is CacheStatus.HIT


async def test_a_part_is_encoded_and_cached_under_an_id_of_its_own(
    embedder: Embedder, encoder: FakeEncoder
) -> None:
    crop, data = Crop(5, 5, 15, 20), picture(9)
    expected = crop_id(image_id(data), crop)
    asked = replace(order(data), crop=crop, expected_image_id=expected)
    part = await embedder.embed(asked, StageClock())
    assert part.image_id == expected and part.header.size == Size(10, 15)
    await embedder.embed(order(data), StageClock())
    again = await embedder.embed(order(None, expected), StageClock())
    assert (again.status, encoder.encoded) == (CacheStatus.HIT, 2)
    with pytest.raises(InvalidInput, match="is not inside the image") as caught:
        await embedder.embed(replace(order(data), crop=Crop(0, 0, 31, 5)), StageClock())
    assert caught.value.field == "crop"


async def test_two_tenants_never_share_an_entry(embedder: Embedder, encoder: FakeEncoder) -> None:
    await embedder.embed(order(picture(9)), StageClock())
    other = await embedder.embed(order(picture(9), owner="other"), StageClock())
    assert (other.status, encoder.encoded) == (CacheStatus.MISS, 2)


async def test_without_a_cache_every_image_is_encoded_and_none_fails(
    embedder: Embedder, cache: FakeCache, encoder: FakeEncoder
) -> None:
    cache.down = True
    for _ in range(2):
        result = await embedder.fetch(order(picture(9)), StageClock())
        assert result.embedding.tensors
    assert encoder.encoded == 2


async def test_an_unknown_model_is_refused_with_the_list(embedder: Embedder) -> None:
    with pytest.raises(ModelNotFound, match="nano") as caught:
        await embedder.embed(order(picture(9), model="sam9"), StageClock())
    assert caught.value.known == ["nano", "twin"]


async def test_two_models_never_share_an_entry(
    embedder: Embedder, cache: FakeCache, encoder: FakeEncoder
) -> None:
    await embedder.embed(order(picture(9)), StageClock())
    other = await embedder.embed(order(picture(9), model="twin"), StageClock())
    named = await embedder.embed(order(picture(9), model="nano"), StageClock())
    assert (other.status, named.status, encoder.encoded) == (CacheStatus.MISS, CacheStatus.HIT, 2)
    assert {key.model_version for key in cache.entries} == {"nano-test", "twin-test"}


@pytest.mark.parametrize(("coding", "written"), [("small", b'"q1"'), ("exact", b'"f2"')])
async def test_embeddings_are_cached_in_the_configured_coding(
    cache: FakeCache, encoder: FakeEncoder, coding: Coding, written: bytes
) -> None:
    encoder.channels = 256
    await replica(cache, encoder, coding).embed(order(picture(9)), StageClock())
    (entry,) = cache.entries.values()
    assert written in entry.packed[:HEADER_BYTES]


async def test_a_reference_of_another_model_version_is_refused_with_both(
    embedder: Embedder,
) -> None:
    with pytest.raises(ModelVersionMismatch) as caught:
        await embedder.embed(order(None, image_id(picture(9)), model_version="old"), StageClock())
    assert (caught.value.asked, caught.value.served) == ("old", "nano-test")


@pytest.mark.parametrize(
    ("data", "name", "field"),
    [
        (b"", "", "data"),
        (b"x" * 10_001, "", "data"),
        (b"no image", "", "data"),
        (None, "short", "image_id"),
    ],
)
async def test_bad_images_are_refused_by_field(
    embedder: Embedder, data: bytes | None, name: str, field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await embedder.embed(order(data, name), StageClock())
    assert caught.value.field == field


async def test_a_failed_encode_is_not_remembered(embedder: Embedder, encoder: FakeEncoder) -> None:
    encoder.failure = Unavailable("Triton is away")
    with pytest.raises(Unavailable):
        await embedder.embed(order(picture(9)), StageClock())
    encoder.failure = None
    assert (await embedder.embed(order(picture(9)), StageClock())).status is CacheStatus.MISS


async def test_stages_are_timed(embedder: Embedder) -> None:
    clock = StageClock()
    await embedder.embed(order(picture(9)), clock)
    assert list(clock.milliseconds) == [
        "hash",
        "lookup",
        "turn",
        "queue",
        "decode",
        "encode",
        "store",
    ]


async def both(replica: Embedder, tensors: bool) -> EmbedResult | FetchResult:
    call = replica.fetch if tensors else replica.embed
    return await call(order(picture(9)), StageClock())


async def test_many_at_once_in_two_replicas_are_one_encode_and_one_miss(
    cache: FakeCache, encoder: FakeEncoder
) -> None:
    replicas = [replica(cache, encoder), replica(cache, encoder)]
    encoder.go.clear()
    calls = [asyncio.create_task(both(replicas[n % 2], tensors=n < 16)) for n in range(32)]
    await encoder.busy.wait()
    encoder.go.set()
    answers = await asyncio.gather(*calls)
    assert encoder.encoded == 1
    statuses = Counter(answer.status for answer in answers)
    assert statuses[CacheStatus.MISS] == 1
    assert statuses[CacheStatus.COALESCED] > 0
    assert (
        statuses.total() - statuses[CacheStatus.HIT] - statuses[CacheStatus.COALESCED] == 1
    )  # some came late
    assert {answer.image_id for answer in answers} == {image_id(picture(9))}
    tensors = [
        answer.embedding.tensors["embedding"]
        for answer in answers[:16]
        if isinstance(answer, FetchResult)
    ]
    assert len(tensors) == 16
    assert all(np.array_equal(tensor, tensors[0]) for tensor in tensors)


def counted() -> Counter[CacheStatus]:
    read = REGISTRY.get_sample_value
    return Counter(
        {
            s: int(read("samserve_embedded_total", {"model": "nano", "cache": s.value}) or 0)
            for s in CacheStatus
        }
    )


async def test_metrics_count_hits_misses_and_coalesced(embedder: Embedder) -> None:
    before = counted()
    await asyncio.gather(*(embedder.embed(order(picture(9)), StageClock()) for _ in range(3)))
    await embedder.embed(order(picture(9)), StageClock())
    assert counted() - before == {CacheStatus.HIT: 1, CacheStatus.MISS: 1, CacheStatus.COALESCED: 2}


async def test_a_cached_image_is_not_decoded(cache: FakeCache, embedder: Embedder) -> None:
    broken = b"no image at all"
    key = CacheKey("public", "nano-test", image_id(broken))
    await cache.put(key, Embedding("nano-test", Size(3, 2), {}))
    assert (await embedder.embed(order(broken), StageClock())).status is CacheStatus.HIT


@pytest.mark.parametrize("data", [picture(9), None])
async def test_an_image_with_another_hash_than_expected_is_refused(
    embedder: Embedder, encoder: FakeEncoder, data: bytes | None
) -> None:
    name = image_id(picture(9))
    with pytest.raises(InvalidInput, match=name) as caught:
        await embedder.embed(
            order(data, name, expected_image_id=image_id(picture(8))), StageClock()
        )
    assert (caught.value.field, encoder.encoded) == ("expected_image_id", 0)
    await embedder.embed(order(picture(9), expected_image_id=name), StageClock())


async def test_a_bad_image_is_refused_to_all_who_send_it_at_once(
    cache: FakeCache, encoder: FakeEncoder
) -> None:
    replicas = [replica(cache, encoder), replica(cache, encoder)]
    calls = [replicas[n % 2].embed(order(b"no image"), StageClock()) for n in range(8)]
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(failure) for failure in failures] == [InvalidInput] * 8
    assert not cache.claims


async def test_priority_and_the_time_left_reach_the_encoder(
    embedder: Embedder, encoder: FakeEncoder
) -> None:
    now = asyncio.get_running_loop().time
    before = now()
    deadline = before + 1000
    await embedder.embed(order(picture(1)), StageClock(), priority=Priority.BULK, deadline=deadline)
    ((priority, seconds),) = encoder.asked
    assert priority is Priority.BULK
    assert deadline - now() <= seconds <= deadline - before


async def test_a_missed_deadline_names_the_stage(embedder: Embedder, encoder: FakeEncoder) -> None:
    encoder.go.clear()
    # Try longer deadlines until one suffices to reach the encoder.
    for shade, seconds in enumerate((0.1, 1, 10, 60)):
        deadline = asyncio.get_running_loop().time() + seconds
        with pytest.raises(DeadlinePassed) as caught:
            await embedder.embed(order(picture(shade)), StageClock(), deadline=deadline)
        if encoder.busy.is_set():
            break
    assert "encode" in str(caught.value)


async def test_with_a_full_queue_new_images_are_refused_and_cached_ones_are_answered(
    embedder: Embedder, encoder: FakeEncoder
) -> None:
    await embedder.embed(order(picture(0)), StageClock())
    encoder.go.clear()
    fill = [
        asyncio.create_task(embedder.embed(order(picture(shade)), StageClock()))
        for shade in (1, 2, 3, 4)
    ]
    await until(lambda: (len(encoder.asked), waiting()) == (3, 2))
    with pytest.raises(Overloaded):
        await embedder.embed(order(picture(5)), StageClock())
    assert (await embedder.embed(order(picture(0)), StageClock())).status is CacheStatus.HIT
    encoder.go.set()
    assert [task.status for task in await asyncio.gather(*fill)] == [CacheStatus.MISS] * 4


async def test_images_whose_callers_have_left_are_not_encoded(
    embedder: Embedder, encoder: FakeEncoder
) -> None:
    encoder.go.clear()
    inside = [
        asyncio.create_task(embedder.embed(order(picture(shade)), StageClock())) for shade in (1, 2)
    ]
    gone = asyncio.create_task(embedder.embed(order(picture(3)), StageClock()))
    await until(lambda: (len(encoder.asked), waiting()) == (2, 1))
    gone.cancel()
    await until(lambda: waiting() == 0)
    encoder.go.set()
    await asyncio.gather(*inside)
    await asyncio.sleep(0.1)
    assert encoder.encoded == 2
