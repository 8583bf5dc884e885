"""Images that are known by their URLs, and those that are embedded ahead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from samserve.client import AsyncClient, EmbedAnswer
from samserve.core.cache_status import CacheStatus
from samserve.core.caller import Caller, acting_for
from samserve.core.errors import InvalidInput
from samserve.core.geometry import Size
from samserve.gateway.label_studio import images
from samserve.gateway.label_studio.images import KNOWN_SECONDS, KnownImages
from samserve.gateway.label_studio.studio import ImageSource


class Embedder:
    """Fetches and embeds; counts both, and can be held."""

    def __init__(self) -> None:
        self.fetched: list[str] = []
        self.busy = 0
        self.most_busy = 0
        self.failure: Exception | None = None
        self.go = asyncio.Event()
        self.go.set()

    async def fetch(self, source: ImageSource) -> bytes:
        self.fetched.append(source.url)
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        await self.go.wait()
        self.busy -= 1
        if self.failure is not None:
            raise self.failure
        return source.url.encode()

    async def embed(self, data: bytes) -> EmbedAnswer:
        return EmbedAnswer(data.decode(), "nano-1", Size(3, 2), CacheStatus.MISS, {})


@pytest.fixture
def embedder() -> Embedder:
    return Embedder()


@pytest.fixture
def now() -> list[float]:
    return [0.0]


@pytest.fixture
async def known(embedder: Embedder, now: list[float]) -> AsyncIterator[KnownImages]:
    client = cast(AsyncClient, embedder)
    known = KnownImages(embedder.fetch, lambda: client, lambda: now[0])
    yield known
    await known.close()


def source(url: str) -> ImageSource:
    return ImageSource(url, 1, "image")


async def idle() -> None:
    """Let everything run that can."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_an_image_is_fetched_once_until_its_time_is_over(
    known: KnownImages, embedder: Embedder, now: list[float]
) -> None:
    first = await known.get(source("a"))
    assert (first.image_id, first.size) == ("a", Size(3, 2))
    assert await known.get(source("a")) == first
    now[0] = KNOWN_SECONDS
    await known.get(source("a"))
    assert embedder.fetched == ["a", "a"]


async def test_callers_at_once_share_the_work_and_one_that_leaves_does_not_end_it(
    known: KnownImages, embedder: Embedder
) -> None:
    embedder.go.clear()
    leaver, stayer = (asyncio.create_task(known.get(source("a"))) for _ in range(2))
    await idle()
    leaver.cancel()
    embedder.go.set()
    assert (await stayer).image_id == "a"
    assert embedder.fetched == ["a"]


async def test_what_a_url_is_is_asked_once_for_each_tenant(
    known: KnownImages, embedder: Embedder
) -> None:
    for owner in ("a", "b", "a"):
        with acting_for(Caller(owner, owner)):
            await asyncio.gather(*(known.get(source("u")) for _ in range(2)))
    assert embedder.fetched == ["u", "u"]


async def test_a_failure_reaches_every_caller_and_is_not_kept(
    known: KnownImages, embedder: Embedder
) -> None:
    embedder.failure = InvalidInput("image", "image: gone")
    for _ in range(2):
        with pytest.raises(InvalidInput, match="gone"):
            await known.get(source("a"))
    assert embedder.fetched == ["a", "a"]


async def test_the_images_that_are_kept_are_bounded(
    embedder: Embedder, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MOST_KNOWN", 2)
    known = KnownImages(embedder.fetch, lambda: cast(AsyncClient, embedder), lambda: now[0])
    for url in ("a", "b", "a", "c", "a", "b"):
        await known.get(source(url))
    assert embedder.fetched == ["a", "b", "c", "b"]


async def test_images_are_embedded_ahead_one_at_a_time_and_a_bounded_number_waits(
    known: KnownImages, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MOST_WAITING", 3)
    embedder.go.clear()
    known.embed_ahead([source(url) for url in "abcde"])
    await idle()
    assert embedder.fetched == ["a"]
    embedder.go.set()
    await idle()
    assert embedder.fetched == ["a", "b", "c"]
    assert embedder.most_busy == 1


async def test_a_click_does_not_wait_for_the_images_ahead(
    known: KnownImages, embedder: Embedder
) -> None:
    embedder.go.clear()
    known.embed_ahead([source(url) for url in "abc"])
    await idle()
    click: asyncio.Task[Any] = asyncio.create_task(known.get(source("z")))
    await idle()
    assert embedder.fetched == ["a", "z"]
    embedder.go.set()
    assert (await click).image_id == "z"


async def test_a_failure_ahead_harms_nothing(known: KnownImages, embedder: Embedder) -> None:
    embedder.failure = InvalidInput("image", "image: gone")
    known.embed_ahead([source("a"), source("b")])
    await idle()
    embedder.failure = None
    assert (await known.get(source("a"))).image_id == "a"


async def test_closing_ends_what_runs(known: KnownImages, embedder: Embedder) -> None:
    embedder.go.clear()
    known.embed_ahead([source("a"), source("b")])
    await idle()
    await known.close()
    assert embedder.fetched == ["a"]
