import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from fakes import FakeCache
from samserve.core.cache_status import CacheStatus
from samserve.core.crop import Crop
from samserve.core.embedding import Embedding, SizeLimits
from samserve.core.errors import EmbeddingNotCached, ModelVersionMismatch, Overloaded, Unavailable
from samserve.core.geometry import Size
from samserve.core.image_request import ImageRequest
from samserve.decoder.admission import DecodeQueue
from samserve.decoder.image_lru import ImageLru
from samserve.decoder.image_source import ImageSource
from samserve.decoder.registry import ServedModel
from samserve.decoder.remote_embedder import RemoteEmbedding
from samserve.decoder.sam.kernel_decoder import PreparedImage
from samserve.decoder.sam.mask_decoder import ReadyImage
from samserve.infra.cache import CacheKey

KEY = CacheKey("public", "v1", "ab" * 32)
ROOM = DecodeQueue(2, 8)
VERSIONS = frozenset({"v1", "v1-int8"})


def made(version: str = "v1") -> Embedding:
    return Embedding(version, Size(4, 3), {"embedding": np.zeros(8, np.float16)})


class FakeEmbedder:
    """Returns embeddings of one version with a fixed status; counts its calls."""

    def __init__(self, version: str = "v1", status: CacheStatus = CacheStatus.MISS) -> None:
        self.version, self.status, self.asked = version, status, 0

    async def embed(self, request: ImageRequest) -> RemoteEmbedding:
        self.asked += 1
        self.request = request
        return RemoteEmbedding(made(self.version), self.status, remote_ms={"encode": 2.0})


@dataclass
class Facts:
    """The facts of a bundle that a source reads."""

    name: str = "nano"
    model_version: str = "v1"
    embedding: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"embedding": (8,)})


class Preparer:
    """A decoder that prepares empty images; counts its calls."""

    bundle = Facts()

    def __init__(self) -> None:
        self.prepared = 0

    def prepare(self, embedding: Embedding) -> ReadyImage:
        self.prepared += 1
        return ReadyImage(embedding, PreparedImage(np.zeros(0, np.float32), {}))


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


MODEL = ServedModel(Preparer(), VERSIONS)  # type: ignore[arg-type]


async def test_images_are_looked_for_in_this_process_then_redis_then_the_embedding_service(
    pool: ThreadPoolExecutor,
) -> None:
    cache, embedder = FakeCache(), FakeEmbedder()
    embeddings = ImageSource(ImageLru(1000), cache, embedder, pool, ROOM)
    first = await embeddings.find(KEY, MODEL, b"photo")
    again = await embeddings.find(KEY, MODEL, b"photo")
    assert (first.status, again.status, embedder.asked) == (CacheStatus.MISS, CacheStatus.HIT, 1)
    await cache.put(KEY, made())
    cold = ImageSource(ImageLru(1000), cache, embedder, pool, ROOM)
    assert (await cold.find(KEY, MODEL, None)).status is CacheStatus.HIT
    cache.entries.clear()
    assert (await cold.find(KEY, MODEL, None)).status is CacheStatus.HIT
    assert embedder.asked == 1


async def test_the_embedding_services_cache_status_is_passed_on(
    pool: ThreadPoolExecutor,
) -> None:
    embeddings = ImageSource(
        ImageLru(1000), FakeCache(), FakeEmbedder(status=CacheStatus.COALESCED), pool, ROOM
    )
    assert (await embeddings.find(KEY, MODEL, b"photo")).status is CacheStatus.COALESCED


async def test_an_unknown_image_without_bytes_is_not_cached(pool: ThreadPoolExecutor) -> None:
    with pytest.raises(EmbeddingNotCached):
        await ImageSource(ImageLru(1000), FakeCache(), FakeEmbedder(), pool, ROOM).find(
            KEY, MODEL, None
        )


async def test_an_embedding_of_another_version_is_never_used(pool: ThreadPoolExecutor) -> None:
    resident = ImageLru(1000)
    with pytest.raises(ModelVersionMismatch):
        await ImageSource(resident, FakeCache(), FakeEmbedder("v2"), pool, ROOM).find(
            KEY, MODEL, b"photo"
        )
    assert len(resident) == 0


async def test_an_embedding_by_another_variant_is_used_and_kept_under_its_own_version(
    pool: ThreadPoolExecutor,
) -> None:
    resident, embedder = ImageLru(1000), FakeEmbedder("v1-int8")
    embeddings = ImageSource(resident, FakeCache(), embedder, pool, ROOM)
    assert (await embeddings.find(KEY, MODEL, b"photo")).image.model_version == "v1-int8"
    assert resident.get(KEY) is None
    int8 = replace(KEY, model_version="v1-int8")
    assert (await embeddings.find(int8, MODEL, None)).status is CacheStatus.HIT
    assert embedder.asked == 1


async def test_the_version_last_served_is_looked_for(
    pool: ThreadPoolExecutor,
) -> None:
    embeddings = ImageSource(ImageLru(1000), FakeCache(), FakeEmbedder("v1-int8"), pool, ROOM)
    assert embeddings.version_served(MODEL) == "v1"
    await embeddings.find(KEY, MODEL, b"photo")
    served = replace(KEY, model_version=embeddings.version_served(MODEL))
    assert (await embeddings.find(served, MODEL, None)).image.model_version == "v1-int8"


async def test_concurrent_calls_prepare_an_image_once(pool: ThreadPoolExecutor) -> None:
    prepare = Preparer()
    model = ServedModel(prepare, VERSIONS)  # type: ignore[arg-type]
    embeddings = ImageSource(ImageLru(1000), FakeCache(), FakeEmbedder(), pool, ROOM)
    found = await asyncio.gather(*(embeddings.find(KEY, model, b"photo") for _ in range(5)))
    assert prepare.prepared == 1
    assert all(f.image is found[0].image for f in found)


async def test_a_cancelled_call_does_not_stop_the_preparation(
    pool: ThreadPoolExecutor,
) -> None:
    prepare = Preparer()
    model = ServedModel(prepare, VERSIONS)  # type: ignore[arg-type]
    embeddings = ImageSource(ImageLru(1000), FakeCache(), FakeEmbedder(), pool, ROOM)
    calls = [asyncio.ensure_future(embeddings.find(KEY, model, b"photo")) for _ in range(2)]
    await asyncio.sleep(0)
    calls[0].cancel()
    assert (await calls[1]).image.model_version == "v1"
    assert prepare.prepared == 1


async def test_with_a_full_queue_redis_is_not_asked_and_prepared_images_are_found(
    pool: ThreadPoolExecutor,
) -> None:
    room, resident = DecodeQueue(1, 0), ImageLru(1000)
    embeddings = ImageSource(resident, FakeCache(), FakeEmbedder(), pool, room)
    other = replace(KEY, image_id="cd" * 32)
    await embeddings.find(KEY, MODEL, b"photo")
    with room.place():
        with pytest.raises(Overloaded):
            await embeddings.find(other, MODEL, None)
        assert (await embeddings.find(KEY, MODEL, None)).status is CacheStatus.HIT
    with pytest.raises(EmbeddingNotCached):
        await embeddings.find(other, MODEL, None)


async def test_a_call_to_the_embedding_service_holds_no_place(pool: ThreadPoolExecutor) -> None:
    class Slow(FakeEmbedder):
        def __init__(self) -> None:
            super().__init__()
            self.busy, self.go = asyncio.Event(), asyncio.Event()

        async def embed(self, request: ImageRequest) -> RemoteEmbedding:
            self.busy.set()
            await self.go.wait()
            return await super().embed(request)

    room, slow = DecodeQueue(1, 0), Slow()
    call = asyncio.create_task(
        ImageSource(ImageLru(1000), FakeCache(), slow, pool, room).find(KEY, MODEL, b"")
    )
    await slow.busy.wait()
    with room.place():
        pass
    slow.go.set()
    assert (await call).status is CacheStatus.MISS


async def test_the_hash_is_handed_on_to_the_embedding_service(pool: ThreadPoolExecutor) -> None:
    embedder = FakeEmbedder()
    source = ImageSource(ImageLru(1000), FakeCache(), embedder, pool, ROOM)
    await source.find(KEY, MODEL, b"photo")
    assert embedder.request == ImageRequest(
        "public", "nano", b"photo", expected_image_id=KEY.image_id
    )


async def test_a_part_of_an_image_is_embedded_and_not_kept(pool: ThreadPoolExecutor) -> None:
    embedder, images, crop = FakeEmbedder(), ImageLru(1000), Crop(0, 0, 5, 5)
    source = ImageSource(images, FakeCache(), embedder, pool, ROOM)
    await source.find(KEY, MODEL, b"photo", crop)
    await asyncio.sleep(0.01)
    assert embedder.request is not None and embedder.request.crop == crop
    assert not len(images)
    await source.find(KEY, MODEL, b"photo")
    await asyncio.sleep(0.01)
    assert len(images) == 1


async def test_an_embedding_of_another_kind_from_the_service_is_never_prepared(
    pool: ThreadPoolExecutor,
) -> None:
    prepare = Preparer()
    model = ServedModel(prepare, VERSIONS)  # type: ignore[arg-type]
    prepare.bundle = Facts(embedding={"embedding": (256, 64, 64)})
    source = ImageSource(ImageLru(1000), FakeCache(), FakeEmbedder(), pool, ROOM)
    with pytest.raises(Unavailable, match="expected"):
        await source.find(KEY, model, b"photo")

    prepare.bundle = Facts()
    limits = SizeLimits(max_pixels=11)
    small = ImageSource(ImageLru(1000), FakeCache(), FakeEmbedder(), pool, ROOM, limits)
    with pytest.raises(Unavailable, match="4 x 3 pixels; the limits are 11 pixels"):
        await small.find(KEY, model, b"photo")
    assert prepare.prepared == 0


async def test_the_cache_is_asked_for_embeddings_within_the_models_contract(
    pool: ThreadPoolExecutor,
) -> None:
    asked = []

    class Asked(FakeCache):
        async def get(self, key: CacheKey, contract: object = None) -> Embedding | None:
            asked.append(contract)
            return None

    limits = SizeLimits(max_pixels=1000)
    source = ImageSource(ImageLru(1000), Asked(), FakeEmbedder(), pool, ROOM, limits)
    await source.find(KEY, MODEL, b"photo")
    assert asked == [MODEL.contract(limits)]
