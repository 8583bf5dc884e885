import numpy as np
import pytest
from fakes import FakeCache
from samserve.core.cache import CacheKey
from samserve.core.embedding import Embedding
from samserve.core.errors import EmbeddingNotCached, ModelVersionMismatch
from samserve.core.geometry import Size
from samserve.decoder.embeddings import Embeddings, Found
from samserve.decoder.resident import Resident

KEY = CacheKey("public", "v1", "ab" * 32)


def made(version: str = "v1") -> Embedding:
    return Embedding(version, Size(4, 3), {"embedding": np.zeros(8, np.float16)})


class FakeEmbedder:
    """Makes an embedding of one version of the model, and counts."""

    def __init__(self, version: str = "v1") -> None:
        self.version, self.asked = version, 0

    async def embed(self, tenant: str, model: str, data: bytes) -> Found:
        self.asked += 1
        return Found(made(self.version), hit=False, remote_ms={"encode": 2.0})


async def test_this_process_is_asked_before_redis_and_redis_before_the_embedder() -> None:
    cache, embedder = FakeCache(), FakeEmbedder()
    embeddings = Embeddings(Resident(1000), cache, embedder)
    first = await embeddings.find(KEY, "nano", b"photo")
    again = await embeddings.find(KEY, "nano", b"photo")
    assert (first.hit, again.hit, embedder.asked) == (False, True, 1)
    await cache.put(KEY, made())
    cold = Embeddings(Resident(1000), cache, embedder)
    assert (await cold.find(KEY, "nano", None)).hit
    cache.entries.clear()
    assert (await cold.find(KEY, "nano", None)).hit
    assert embedder.asked == 1


async def test_without_bytes_an_unknown_image_is_asked_for() -> None:
    with pytest.raises(EmbeddingNotCached):
        await Embeddings(Resident(1000), FakeCache(), FakeEmbedder()).find(KEY, "nano", None)


async def test_an_embedding_of_another_version_is_never_used() -> None:
    resident = Resident(1000)
    with pytest.raises(ModelVersionMismatch):
        await Embeddings(resident, FakeCache(), FakeEmbedder("v2")).find(KEY, "nano", b"photo")
    assert len(resident) == 0
