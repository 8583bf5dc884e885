"""Concepts are found once, from trunks that are encoded once."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fakes import FakeCache, FakeEncoder, FakeHead, InProcessDecoder
from PIL import Image
from samserve.codec.packed import unpack
from samserve.core.cache_status import CacheStatus
from samserve.core.concept import Example, TokenizedConcept
from samserve.core.detections import from_tensors
from samserve.core.embedding import SizeLimits
from samserve.core.errors import (
    DeadlinePassed,
    EmbeddingNotCached,
    InvalidInput,
    NoConcepts,
    Overloaded,
    Unavailable,
)
from samserve.core.image import Limits
from samserve.core.image_id import image_id
from samserve.core.image_request import ImageRequest
from samserve.embedding.admission import EncodeSlots
from samserve.embedding.claims import ReplicaClaims
from samserve.embedding.concept_finder import ConceptEntry, ConceptFinder, ConceptResults
from samserve.embedding.embedder import Embedder
from samserve.infra.stages import StageClock

LIMITS = Limits(max_bytes=2**20, max_pixels=10**6, max_aspect=64)
COIN, TABLE = TokenizedConcept((1, 5, 2)), TokenizedConcept((1, 6, 7, 2))


def photo(shade: int = 90) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 16), (shade, shade, shade)).save(file, "PNG")
    return file.getvalue()


class Service:
    """A finder over fakes; several may share a cache, as replicas do."""

    def __init__(self, cache: FakeCache, pool: ThreadPoolExecutor, slots: int = 2) -> None:
        self.cache, self.head = cache, FakeHead()
        self.encoder = FakeEncoder(knows_concepts=True)
        claims = ReplicaClaims(cache, patience=5)
        self.embedder = Embedder(
            cache,
            claims,
            EncodeSlots(2, 2),
            self.encoder,
            InProcessDecoder(LIMITS),
            limits=LIMITS,
            pool=pool,
            coding="exact",
        )
        self.finder = ConceptFinder(
            cache,
            claims,
            EncodeSlots(slots, 0),
            self.embedder,
            self.head,
            pool=pool,
            limits=SizeLimits(LIMITS.max_pixels, LIMITS.max_aspect),
        )

    async def find(
        self, *concepts: TokenizedConcept, data: bytes | None = b"", **options: float
    ) -> ConceptResults:
        data = photo() if data == b"" else data
        known = "" if data is not None else image_id(photo())
        request = ImageRequest("public", "", data, known)
        return await self.finder.find(request, concepts, StageClock(), **options)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def service(pool: ThreadPoolExecutor) -> Service:
    return Service(FakeCache(), pool)


def statuses(results: ConceptResults) -> list[object]:
    return [
        each.status.name if isinstance(each, ConceptEntry) else type(each)
        for each in results.results
    ]


async def test_a_new_image_is_encoded_once_for_clicks_and_concepts(service: Service) -> None:
    found = await service.find(COIN, TABLE)
    assert (found.status, statuses(found)) == (CacheStatus.MISS, ["MISS", "MISS"])
    assert service.encoder.encoded == 1
    assert service.head.runs == [2]
    kinds = sorted(key.part.partition(":")[0] for key in service.cache.entries)
    parts = {key.image_id == "phrase" for key in service.cache.entries}
    assert parts == {True, False}
    assert kinds.count("concept") == 2 and kinds.count("trunk") == 1 and kinds.count("") == 1

    request = ImageRequest("public", "", None, image_id(photo()))
    assert (await service.embedder.embed(request, StageClock())).status is CacheStatus.HIT


async def test_a_concept_is_found_once(service: Service) -> None:
    first = await service.find(COIN)
    again = await service.find(COIN, TABLE, data=None)
    assert statuses(again) == ["HIT", "MISS"]
    assert service.head.runs == [1, 1]
    assert again.results[0].packed == first.results[0].packed
    only = await service.find(COIN, data=None)
    assert (only.status, only.image.size) == (CacheStatus.HIT, first.image.size)


async def test_what_is_cached_is_what_the_head_found(service: Service) -> None:
    (entry,) = (await service.find(COIN)).results
    embedding = unpack(entry.packed)
    found = from_tensors(embedding.tensors, embedding.size)
    assert found.presence == pytest.approx(0.9, abs=1e-6)
    assert found.scores == pytest.approx([0.8, 0.3], abs=1e-6)
    assert np.abs(found.boxes[0] - [0, 0, 16, 16]).max() < 1e-3
    assert found.logits.shape == (2, 8, 8)


async def test_a_phrase_is_embedded_once_for_all_images(service: Service) -> None:
    await service.find(COIN)
    with_example = TokenizedConcept(COIN.tokens, (Example((1, 1, 9, 9)),))
    await service.find(with_example, COIN, data=photo(20))
    assert service.head.phrases == [COIN.tokens]


async def test_calls_at_once_share_what_they_both_want(service: Service) -> None:
    await service.find(TABLE)
    service.head.go.clear()
    first = asyncio.ensure_future(service.find(COIN, data=None))
    await asyncio.sleep(0.05)
    second = asyncio.ensure_future(service.find(COIN, COIN, data=None))
    await asyncio.sleep(0.05)
    service.head.go.set()
    assert statuses(await first) == ["MISS"]
    assert statuses(await second) == ["COALESCED", "COALESCED"]
    assert service.head.runs == [1, 1]


async def test_two_replicas_find_a_concept_once(pool: ThreadPoolExecutor) -> None:
    cache = FakeCache()
    one, other = Service(cache, pool), Service(cache, pool)
    await one.find(TABLE)
    one.head.go.clear()
    first = asyncio.ensure_future(one.find(COIN, data=None))
    await asyncio.sleep(0.05)
    second = asyncio.ensure_future(other.find(COIN, data=None))
    await asyncio.sleep(0.05)
    one.head.go.set()
    assert statuses(await first) == ["MISS"]
    assert statuses(await second) == ["COALESCED"]
    assert other.head.runs == []


async def test_a_trunk_that_was_evicted_needs_the_image_again(service: Service) -> None:
    await service.find(COIN)
    trunk = next(key for key in service.cache.entries if key.part == "trunk")
    del service.cache.entries[trunk]
    assert statuses(await service.find(COIN, data=None)) == ["HIT"]
    with pytest.raises(EmbeddingNotCached):
        await service.find(TABLE, data=None)
    assert statuses(await service.find(TABLE)) == ["MISS"]
    assert service.encoder.encoded == 2


async def test_without_a_cache_the_answer_is_the_same(service: Service) -> None:
    (known,) = (await service.find(COIN)).results
    service.cache.down = True
    (again,) = (await service.find(COIN)).results
    assert again.packed == known.packed
    with pytest.raises(EmbeddingNotCached):
        await service.find(COIN, data=None)


async def test_a_bad_concept_fails_alone(service: Service) -> None:
    outside = TokenizedConcept(COIN.tokens, (Example((0, 0, 99, 9)),))
    found = await service.find(
        COIN, outside, TokenizedConcept((1,) * 9), TokenizedConcept((1, 600)), TokenizedConcept(())
    )
    good, *bad = found.results
    assert isinstance(good, ConceptEntry)
    assert [error.field for error in bad if isinstance(error, InvalidInput)] == [
        "concepts[1].examples[0].box",
        "concepts[2].tokens",
        "concepts[3].tokens",
        "concepts[4].tokens",
    ]
    assert service.head.runs == [1]


async def test_an_error_of_the_head_reaches_every_caller_and_is_not_kept(service: Service) -> None:
    service.head.failure = Unavailable("away")
    found = await service.find(COIN, TABLE)
    assert statuses(found) == [Unavailable, Unavailable]
    service.head.failure = None
    assert statuses(await service.find(COIN, data=None)) == ["MISS"]


async def test_a_full_head_is_overload_and_images_are_still_embedded(
    pool: ThreadPoolExecutor,
) -> None:
    service = Service(FakeCache(), pool, slots=1)
    await service.find(TABLE)
    service.head.go.clear()
    held = asyncio.ensure_future(service.find(COIN, data=None))
    await asyncio.sleep(0.05)
    refused = await service.find(TokenizedConcept((1, 8, 2)), data=None)
    assert statuses(refused) == [Overloaded]
    request = ImageRequest("public", "", photo(7))
    assert (await service.embedder.embed(request, StageClock())).status is CacheStatus.MISS
    service.head.go.set()
    assert statuses(await held) == ["MISS"]


async def test_a_deadline_ends_the_wait_and_the_work_is_kept(service: Service) -> None:
    await service.find(TABLE)
    service.head.go.clear()
    soon = asyncio.get_running_loop().time() + 0.1
    with pytest.raises(DeadlinePassed):
        await service.find(COIN, data=None, deadline=soon)
    service.head.go.set()
    await asyncio.sleep(0.1)
    assert statuses(await service.find(COIN, data=None)) == ["HIT"]


async def test_a_model_without_concepts_says_so(service: Service) -> None:
    service.encoder.knows_concepts = False
    with pytest.raises(NoConcepts):
        await service.find(COIN)
    with pytest.raises(InvalidInput, match="concepts: 17 concepts"):
        service.encoder.knows_concepts = True
        await service.find(*[COIN] * 17)
