"""DeleteImage and DeleteTenant: nothing is left in Redis or in a decoder."""

from __future__ import annotations

import asyncio
import io
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from contract.calls import until
from contract.conftest import Path
from PIL import Image
from redis import Redis
from samserve.client import AsyncClient, CachedImage, Click, GridOptions
from samserve.core.errors import EmbeddingNotCached, PermissionDenied, SamserveError, Unavailable
from samserve.decoder.forgetting import Forgetter
from samserve.infra.deletions import Deletion, Deletions
from samserve.infra.redis_link import RedisLink
from samserve.local.process import free_port
from structlog.testing import capture_logs

CLICK = [Click(100, 50)]


@pytest.fixture
def photo() -> bytes:
    """A PNG that no test has sent before."""
    out = io.BytesIO()
    Image.frombytes("L", (320, 200), os.urandom(320 * 200)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def tenant() -> str:
    """A tenant that no test has used before."""
    return f"acme-{os.urandom(4).hex()}"


@pytest.fixture
async def acme(path: Path, tenant: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(path.decoder, path.embedding, tenant=tenant) as client:
        yield client


@pytest.fixture
async def forgetter(path: Path, redis: str) -> AsyncIterator[Forgetter]:
    """Looks only when asked to, and does not listen."""
    link = RedisLink(redis, 10)
    yield Forgetter(path.images, path.work, Deletions(link), within=60)
    await link.close()


@pytest.fixture
async def listening(forgetter: Forgetter, redis: str) -> AsyncIterator[Forgetter]:
    running = asyncio.create_task(forgetter.run())
    with Redis.from_url(redis) as store:
        await until(lambda: store.pubsub_numsub("samserve-deletions")[0][1] == 1)
    yield forgetter
    running.cancel()


@contextmanager
def stored(redis: str, tenant: str) -> Iterator[list[bytes]]:
    """The names of a tenant's keys, read at the end of the block."""
    names: list[bytes] = []
    yield names
    with Redis.from_url(redis) as store:
        names += store.keys(f"samserve:{tenant}:*")


async def test_an_image_is_deleted_with_its_crops_and_nothing_else(
    acme: AsyncClient, listening: Forgetter, path: Path, redis: str, tenant: str, photo: bytes
) -> None:
    await acme.generate_masks(photo, GridOptions(points_per_side=1, crop_n_layers=1))
    other = acme.using(tenant="other")
    image = CachedImage((await other.segment(photo, CLICK)).image_id)
    kept = await acme.segment(photo + b"\0", CLICK)
    with stored(redis, tenant) as before:
        pass
    assert sum(image.image_id.encode() in name for name in before) >= 2  # and the crops

    with capture_logs() as logs:
        assert await acme.delete_image(image) >= 5
    await until(lambda: len(path.images) == 2)
    with stored(redis, tenant) as after:
        pass
    assert [name.split(b":")[-1].decode() for name in after] == [kept.image_id]
    with pytest.raises(EmbeddingNotCached):
        await acme.segment(image, CLICK)
    await other.segment(image, CLICK)
    assert await acme.delete_image(image) == 0

    (line,) = [line for line in logs if line["event"] == "audit"]
    assert line["action"] == "delete_image"
    assert (line["tenant"], line["result"]) == (tenant, "done")
    assert line["image_id"] == image.image_id


async def test_a_tenant_is_deleted_with_its_streams_and_nothing_of_others(
    acme: AsyncClient, listening: Forgetter, path: Path, redis: str, tenant: str, photo: bytes
) -> None:
    other_name = f"{tenant}-2"
    other = acme.using(tenant=other_name)
    for client in (acme, other):
        await client.segment(photo, CLICK)
        await client.segment(photo + b"\0", CLICK)
    async with acme.interact(photo) as mine, other.interact(photo) as theirs:
        await mine.step(CLICK)
        assert await acme.delete_tenant(tenant) == 2
        with pytest.raises(SamserveError):
            await asyncio.wait_for(_until_ended(mine), 30)
        assert (await theirs.step(CLICK)).masks

    await until(lambda: len(path.images) == 2)
    for name, entries in ((tenant, 0), (other_name, 2)):
        with stored(redis, name) as names:
            pass
        assert len(names) == entries
    await other.segment(CachedImage((await other.embed(photo)).image_id), CLICK)


async def _until_ended(stream: object) -> None:
    """Send clicks until the stream has ended; without a deletion it would not end."""
    while True:
        await stream.step(CLICK)  # type: ignore[attr-defined]
        await asyncio.sleep(0.01)


async def test_a_decoder_that_missed_the_message_refuses_after_its_next_look(
    acme: AsyncClient, forgetter: Forgetter, path: Path, photo: bytes
) -> None:
    image = CachedImage((await acme.segment(photo, CLICK)).image_id)
    await acme.delete_image(image)
    assert len(path.images) == 1  # nobody listens
    await forgetter.look()
    assert len(path.images) == 0
    with pytest.raises(EmbeddingNotCached):
        await acme.segment(image, CLICK)


async def test_a_look_keeps_what_was_not_deleted(
    acme: AsyncClient, forgetter: Forgetter, path: Path, photo: bytes
) -> None:
    await acme.segment(photo, CLICK)
    await forgetter.look()
    assert len(path.images) == 1


async def test_what_is_being_encoded_is_not_stored_after_a_deletion(
    acme: AsyncClient, path: Path, redis: str, tenant: str, photo: bytes
) -> None:
    begun, go = threading.Event(), threading.Event()

    def encode(_: list[bytes]) -> np.ndarray:
        begun.set()
        assert go.wait(60)
        return np.zeros((256, 64, 64), np.float16)

    path.triton.encode = encode
    embedding = asyncio.create_task(acme.embed(photo))
    assert await asyncio.to_thread(begun.wait, 60)
    await acme.delete_tenant(tenant)
    go.set()
    await embedding
    with stored(redis, tenant) as names:
        pass
    assert names == []


async def test_only_the_own_tenant_can_be_deleted(
    acme: AsyncClient, tenant: str, photo: bytes
) -> None:
    await acme.embed(photo)
    with capture_logs() as logs, pytest.raises(PermissionDenied):
        await acme.using(tenant="other").delete_tenant(tenant)
    (line,) = [line for line in logs if line["event"] == "audit"]
    assert (line["tenant"], line["result"]) == ("other", "failed")
    assert (await acme.embed(photo)).cache.name == "HIT"


async def test_a_deletion_is_not_told_as_done_without_redis() -> None:
    link = RedisLink(f"redis://127.0.0.1:{free_port()}/0", 1)
    with pytest.raises(Unavailable):
        await Deletions(link).mark(Deletion("acme"))
    await link.close()
