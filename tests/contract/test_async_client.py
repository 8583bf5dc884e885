"""The client for asyncio: hash before bytes, parts, hedging and retries, as the one for threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
from contract.conftest import Path
from contract.test_hashes import image  # noqa: F401  # a fixture
from contract.test_hedging import CAP, CLICK, IMAGE, OUTSIDE, Decoder, address, asked, decoders
from samserve.client import AsyncClient, CachedImage, CacheStatus, Click, Prompt, hedging
from samserve.core.errors import EmbeddingNotCached, InvalidInput
from samserve.core.image_id import image_id

__all__ = ["address", "decoders"]  # fixtures


@pytest.fixture
async def client(path: Path) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(path.decoder, path.embedding, timeout=CAP) as client:
        yield client


@pytest.fixture
async def hedged(address: str) -> AsyncIterator[AsyncClient]:
    """Connected to two servers, and familiar with their usual durations."""
    async with AsyncClient(address, address, timeout=CAP) as client:
        for _ in range(2 * hedging.FEWEST_TIMED):
            await client.segment(IMAGE, CLICK)
        yield client


async def until(done: Callable[[], bool]) -> None:
    while not done():  # noqa: ASYNC110  # what is waited for happens in other threads
        await asyncio.sleep(0.01)


async def test_a_new_image_is_named_then_sent_and_a_known_one_only_named(
    client: AsyncClient,
    image: bytes,  # noqa: F811
) -> None:
    named = CachedImage(image_id(image))
    with pytest.raises(EmbeddingNotCached):
        await client.segment(named, [Click(100, 50)])

    first = await client.segment(image, [Click(100, 50)])
    again = await client.segment(named, [Click(100, 50)])
    assert (first.cache, again.cache) == (CacheStatus.MISS, CacheStatus.HIT)
    assert first.masks == again.masks
    assert sorted(mask.candidate for mask in first.masks) == [0, 1, 2]


async def test_an_embedding_is_fetched_and_deleted(
    client: AsyncClient,
    image: bytes,  # noqa: F811
) -> None:
    tensors = (await client.embedding(image)).tensors
    assert tensors["embedding"].shape == (256, 64, 64)

    named = CachedImage((await client.embed(image)).image_id)
    assert await client.delete(named)
    assert not await client.delete(named)
    with pytest.raises(EmbeddingNotCached):
        await client.embed(named)


async def test_models_are_listed(
    client: AsyncClient,
    image: bytes,  # noqa: F811
) -> None:
    (model,) = await client.models()
    assert (model.name, model.side, model.low_res) == ("nano", 1024, 256)
    assert (await client.embed(image)).model_version == model.version


async def test_a_client_with_other_options_shares_the_connections(
    client: AsyncClient,
    image: bytes,  # noqa: F811
) -> None:
    await client.embed(image)
    named = CachedImage(image_id(image))
    with pytest.raises(EmbeddingNotCached):  # another tenant's cache
        await client.using(tenant="another").embed(named)
    assert (await client.using(timeout=5).embed(named)).cache is CacheStatus.HIT


async def test_many_prompts_are_sent_in_parts_and_answered_in_their_order(
    hedged: AsyncClient, decoders: list[Decoder]
) -> None:
    for decoder in decoders:
        decoder.prompts.clear()
    answer = await hedged.predict(IMAGE, [Prompt([Click(number, 1)]) for number in range(40)])
    assert [masks[0].area for masks in answer.results] == list(range(40))
    assert sorted(number for decoder in decoders for number in decoder.prompts) == [8, 16, 16]


async def test_an_error_names_the_prompt_among_all(hedged: AsyncClient) -> None:
    prompts = [Prompt([Click(1, 1)]) for _ in range(40)]
    prompts[33] = Prompt([Click(OUTSIDE, 1)])
    with pytest.raises(InvalidInput, match=r"prompts\[33\] is outside") as refusal:
        await hedged.predict(IMAGE, prompts)
    assert refusal.value.field == "prompts[33]"


async def test_a_click_on_a_stopped_decoder_is_answered_by_the_other(
    hedged: AsyncClient, decoders: list[Decoder]
) -> None:
    stopped, other = decoders
    stopped.running.clear()
    before = other.asked
    for _ in range(20):
        await hedged.segment(IMAGE, CLICK)
    assert other.asked - before >= 20


async def test_further_attempts_are_bounded_for_a_call(
    hedged: AsyncClient, decoders: list[Decoder]
) -> None:
    for decoder in decoders:
        decoder.running.clear()
    before = asked(decoders)
    call = asyncio.create_task(hedged.segment(IMAGE, CLICK))
    await until(lambda: asked(decoders) - before >= hedging.MOST_ATTEMPTS)
    await asyncio.sleep(4 * hedging.SHORTEST_DELAY)
    assert asked(decoders) - before == hedging.MOST_ATTEMPTS
    for decoder in decoders:
        decoder.running.set()
    assert (await call).masks[0].area == 1


async def test_a_call_that_a_proxy_ended_is_made_once_more(
    hedged: AsyncClient, decoders: list[Decoder]
) -> None:
    for decoder in decoders:
        decoder.failures = [(grpc.StatusCode.UNAVAILABLE, "GOAWAY received")]
    for _ in range(10):
        await hedged.segment(IMAGE, CLICK)
    assert not any(decoder.failures for decoder in decoders)


async def test_a_cancelled_call_is_cancelled_at_the_server(
    hedged: AsyncClient, decoders: list[Decoder]
) -> None:
    for decoder in decoders:
        decoder.running.clear()
    before = asked(decoders)
    call = asyncio.create_task(hedged.segment(IMAGE, CLICK))
    await until(lambda: asked(decoders) > before)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    made = asked(decoders)
    await asyncio.sleep(3 * hedging.SHORTEST_DELAY)
    assert asked(decoders) == made  # no further attempt follows


async def test_clicks_on_a_stream_refine_each_other(
    client: AsyncClient,
    image: bytes,  # noqa: F811
) -> None:
    async with client.interact(image) as stream:
        assert (stream.image.size.width, stream.image.size.height) == (320, 200)
        first = await stream.step([Click(100, 50)])
        second = await stream.step([Click(100, 50), Click(160, 100)])
        with pytest.raises(InvalidInput):
            await stream.step([Click(5000, 1)])
        third = await stream.step([Click(30, 30)], reset=True)
    assert [len(answer.masks) for answer in (first, second, third)] == [3, 1, 3]

    async with client.interact(CachedImage(image_id(image))) as stream:
        again = await stream.step([Click(100, 50)])
    assert again.masks == first.masks


async def test_a_stream_of_an_unknown_image_is_refused(client: AsyncClient) -> None:
    with pytest.raises(EmbeddingNotCached):
        async with client.interact(CachedImage("0" * 64)):
            raise AssertionError("it is not known")
