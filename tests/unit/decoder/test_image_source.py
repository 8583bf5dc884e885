import asyncio
from dataclasses import replace

import numpy as np
import pytest
from fakes import FakeCache
from samserve.core.cache_status import CacheStatus
from samserve.core.embedding import Embedding
from samserve.core.errors import EmbeddingNotCached, ModelVersionMismatch, Overloaded
from samserve.core.geometry import Size
from samserve.decoder.admission import DecodeQueue
from samserve.decoder.image_lru import ImageLru
from samserve.decoder.image_source import Embedded, ImageSource
from samserve.decoder.sam.kernel_decoder import PreparedImage
from samserve.decoder.sam.mask_decoder import ReadyImage
from samserve.infra.cache import CacheKey

KEY = CacheKey("public", "v1", "ab" * 32)
ROOM = DecodeQueue(2, 8)
VERSIONS = frozenset({"v1", "v1-int8"})


def made(version: str = "v1") -> Embedding:
    return Embedding(version, Size(4, 3), {"embedding": np.zeros(8, np.float16)})


class FakeEmbedder:
    """Makes an embedding of one version of the model, and counts; says what it is told to."""

    def __init__(self, version: str = "v1", status: CacheStatus = CacheStatus.MISS) -> None:
        self.version, self.status, self.asked = version, status, 0

    async def embed(self, tenant: str, model: str, data: bytes) -> Embedded:
        self.asked += 1
        return Embedded(made(self.version), self.status, remote_ms={"encode": 2.0})


class Preparer:
    """Prepares embeddings as empty images, and counts."""

    def __init__(self) -> None:
        self.prepared = 0

    async def __call__(self, embedding: Embedding) -> ReadyImage:
        self.prepared += 1
        await asyncio.sleep(0)
        return ReadyImage(embedding, PreparedImage(np.zeros(0, np.float32), {}))


async def test_this_process_is_asked_before_redis_and_redis_before_the_embedder() -> None:
    cache, embedder = FakeCache(), FakeEmbedder()
    embeddings = ImageSource(ImageLru(1000), cache, embedder, Preparer(), ROOM)
    first = await embeddings.find(KEY, "nano", VERSIONS, b"photo")
    again = await embeddings.find(KEY, "nano", VERSIONS, b"photo")
    assert (first.status, again.status, embedder.asked) == (CacheStatus.MISS, CacheStatus.HIT, 1)
    await cache.put(KEY, made())
    cold = ImageSource(ImageLru(1000), cache, embedder, Preparer(), ROOM)
    assert (await cold.find(KEY, "nano", VERSIONS, None)).status is CacheStatus.HIT
    cache.entries.clear()
    assert (await cold.find(KEY, "nano", VERSIONS, None)).status is CacheStatus.HIT
    assert embedder.asked == 1


async def test_what_the_embedding_service_says_of_its_cache_is_passed_on() -> None:
    embeddings = ImageSource(
        ImageLru(1000), FakeCache(), FakeEmbedder(status=CacheStatus.COALESCED), Preparer(), ROOM
    )
    assert (await embeddings.find(KEY, "nano", VERSIONS, b"photo")).status is CacheStatus.COALESCED


async def test_without_bytes_an_unknown_image_is_asked_for() -> None:
    with pytest.raises(EmbeddingNotCached):
        await ImageSource(ImageLru(1000), FakeCache(), FakeEmbedder(), Preparer(), ROOM).find(
            KEY, "nano", VERSIONS, None
        )


async def test_an_embedding_of_another_version_is_never_used() -> None:
    resident = ImageLru(1000)
    with pytest.raises(ModelVersionMismatch):
        await ImageSource(resident, FakeCache(), FakeEmbedder("v2"), Preparer(), ROOM).find(
            KEY, "nano", VERSIONS, b"photo"
        )
    assert len(resident) == 0


async def test_an_embedding_by_another_variant_is_used_and_kept_under_its_own_version() -> None:
    resident, embedder = ImageLru(1000), FakeEmbedder("v1-int8")
    embeddings = ImageSource(resident, FakeCache(), embedder, Preparer(), ROOM)
    assert (await embeddings.find(KEY, "nano", VERSIONS, b"photo")).image.model_version == "v1-int8"
    assert resident.get(KEY) is None
    int8 = replace(KEY, model_version="v1-int8")
    assert (await embeddings.find(int8, "nano", VERSIONS, None)).status is CacheStatus.HIT
    assert embedder.asked == 1


async def test_after_bytes_the_variant_that_is_served_is_looked_for() -> None:
    embeddings = ImageSource(ImageLru(1000), FakeCache(), FakeEmbedder("v1-int8"), Preparer(), ROOM)
    assert embeddings.version_served("nano", "v1") == "v1"
    await embeddings.find(KEY, "nano", VERSIONS, b"photo")
    served = replace(KEY, model_version=embeddings.version_served("nano", "v1"))
    assert (await embeddings.find(served, "nano", VERSIONS, None)).image.model_version == "v1-int8"
    assert embeddings.version_served("twin", "w1") == "w1"


async def test_calls_at_once_prepare_an_image_once() -> None:
    prepare = Preparer()
    embeddings = ImageSource(ImageLru(1000), FakeCache(), FakeEmbedder(), prepare, ROOM)
    found = await asyncio.gather(
        *(embeddings.find(KEY, "nano", VERSIONS, b"photo") for _ in range(5))
    )
    assert prepare.prepared == 1
    assert all(f.image is found[0].image for f in found)


async def test_a_call_that_gives_up_leaves_the_preparing_to_the_others() -> None:
    prepare = Preparer()
    embeddings = ImageSource(ImageLru(1000), FakeCache(), FakeEmbedder(), prepare, ROOM)
    calls = [
        asyncio.ensure_future(embeddings.find(KEY, "nano", VERSIONS, b"photo")) for _ in range(2)
    ]
    await asyncio.sleep(0)
    calls[0].cancel()
    assert (await calls[1]).image.model_version == "v1"
    assert prepare.prepared == 1


async def test_when_too_many_wait_redis_is_not_even_asked_but_an_image_that_is_ready_is_found() -> (
    None
):
    room, resident = DecodeQueue(1, 0), ImageLru(1000)
    embeddings = ImageSource(resident, FakeCache(), FakeEmbedder(), Preparer(), room)
    other = replace(KEY, image_id="cd" * 32)
    await embeddings.find(KEY, "nano", VERSIONS, b"photo")
    with room.place():
        with pytest.raises(Overloaded):
            await embeddings.find(other, "nano", VERSIONS, None)
        assert (await embeddings.find(KEY, "nano", VERSIONS, None)).status is CacheStatus.HIT
    with pytest.raises(EmbeddingNotCached):
        await embeddings.find(other, "nano", VERSIONS, None)


async def test_who_waits_for_the_embedding_service_takes_no_place() -> None:
    class Slow(FakeEmbedder):
        def __init__(self) -> None:
            super().__init__()
            self.busy, self.go = asyncio.Event(), asyncio.Event()

        async def embed(self, tenant: str, model: str, data: bytes) -> Embedded:
            self.busy.set()
            await self.go.wait()
            return await super().embed(tenant, model, data)

    room, slow = DecodeQueue(1, 0), Slow()
    call = asyncio.create_task(
        ImageSource(ImageLru(1000), FakeCache(), slow, Preparer(), room).find(
            KEY, "", VERSIONS, b""
        )
    )
    await slow.busy.wait()
    with room.place():
        pass
    slow.go.set()
    assert (await call).status is CacheStatus.MISS
