from __future__ import annotations

import asyncio
import gc
import io
import weakref
from collections.abc import AsyncIterator, Callable
from typing import ClassVar

import grpc
import grpc.aio
import numpy as np
import pytest
from contract.calls import (
    CAP,
    FIRST,
    ID,
    OUTSIDE,
    SECOND,
    Stream,
    ended,
    opening,
    predicted,
    prompt,
    refused,
    step,
    until,
)
from contract.conftest import SIZE, Path, Service
from google.rpc import error_details_pb2 as details
from PIL import Image
from samserve.client import Click, Client, Interaction
from samserve.core.errors import (
    DeadlinePassed,
    InvalidInput,
    ModelNotFound,
    Unavailable,
)
from samserve.decoder import interaction
from samserve.decoder.interaction import Step
from samserve.decoder.servicer import StreamLimits
from samserve.infra.deletions import Deletion
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import segmentation_pb2_grpc as rpc
from samserve.v1 import types_pb2 as types


@pytest.fixture
async def stream(service: Service) -> AsyncIterator[Stream]:
    service.embeddings.known.add(ID)
    stream = Stream(service)
    await stream.open()
    yield stream
    stream.call.cancel()


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """The steps that the server has read."""
    steps: list[Step] = []
    submit = interaction.Interaction.submit

    def take(self: interaction.Interaction, one: Step) -> None:
        steps.append(one)
        submit(self, one)

    monkeypatch.setattr(interaction.Interaction, "submit", take)
    return steps


def png() -> bytes:
    pixels = np.random.default_rng().integers(0, 256, (SIZE.height, SIZE.width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def begun_since(before: set[asyncio.Task]) -> list[str]:
    """Names of the new tasks, without those in which gRPC waits for calls: it replaces them."""
    names = [task.get_coro().__qualname__ for task in asyncio.all_tasks() - before]
    return [name for name in names if not name.startswith("AioServer.")]


async def test_opening_embeds_the_image_and_returns_its_size(service: Service) -> None:
    call = service.stub.Interact()
    await call.write(opening(data=b"the image"))
    opened = (await call.read()).opened
    assert (opened.image.width, opened.image.height) == (SIZE.width, SIZE.height)
    assert (opened.image.model_version, opened.cache) == (
        service.model_version,
        types.CACHE_STATUS_MISS,
    )
    assert [time.stage for time in opened.timings] == ["hash", "embedding", "embedding.encode"]
    assert service.embeddings.known == {opened.image.image_id}
    call.cancel()


async def test_a_second_click_refines_the_first_answer(service: Service, stream: Stream) -> None:
    (first,) = await stream.ask(step(1, prompt(FIRST)))
    (second,) = await stream.ask(step(2, prompt(SECOND)))
    assert (first.step, second.step) == (1, 2)
    assert [time.stage for time in second.timings] == ["queue", "decode", "masks"]
    assert list(first.masks) == await predicted(service, prompt(FIRST))
    former = first.masks[0].low_res_logits
    assert list(second.masks) == await predicted(
        service, prompt(SECOND, mask_input=former, multimask=False)
    )
    (third,) = await stream.ask(step(3, prompt(SECOND, multimask=True)))
    former = second.masks[0].low_res_logits
    assert list(third.masks) == await predicted(service, prompt(SECOND, mask_input=former))
    (own,) = await stream.ask(step(4, prompt(SECOND, mask_input=first.masks[0].low_res_logits)))
    assert own.masks == second.masks


async def test_a_reset_forgets_the_earlier_answers(service: Service, stream: Stream) -> None:
    _, after = (
        (await stream.ask(step(1, prompt(FIRST))))[0],
        (await stream.ask(step(2, prompt(SECOND), reset=True)))[0],
    )
    assert len(after.masks) == 3
    assert list(after.masks) == await predicted(service, prompt(SECOND))


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (prompt([]), "prompt"),
        (prompt(OUTSIDE), "prompt.points"),
        (prompt(FIRST, mask_input=b"\0" * 10), "prompt.mask_input"),
    ],
)
async def test_an_invalid_step_is_answered_and_the_stream_continues(
    service: Service, stream: Stream, bad: pb.Prompt, field: str
) -> None:
    (first,) = await stream.ask(step(1, prompt(FIRST)))
    (wrong,) = await stream.ask(step(2, bad))
    assert (wrong.step, len(wrong.masks), wrong.superseded) == (2, 0, False)
    detail = details.BadRequest()
    assert wrong.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert wrong.error.details[0].Unpack(detail)
    assert detail.field_violations[0].field == field
    (after,) = await stream.ask(step(3, prompt(SECOND)))
    former = first.masks[0].low_res_logits
    assert list(after.masks) == await predicted(
        service, prompt(SECOND, mask_input=former, multimask=False)
    )


async def test_an_invalid_step_still_resets(stream: Stream) -> None:
    await stream.ask(step(1, prompt(FIRST)))
    await stream.ask(step(2, prompt(OUTSIDE), reset=True))
    (after,) = await stream.ask(step(3, prompt(SECOND)))
    assert len(after.masks) == 3


@pytest.mark.parametrize("reset", [False, True])
async def test_only_the_newest_waiting_step_is_decoded(
    service: Service, stream: Stream, taken: list[Step], reset: bool
) -> None:
    decoder = service.decoder
    decoder.go.clear()
    await stream.call.write(step(1, prompt(FIRST)))
    await until(decoder.busy.is_set)
    for number in (2, 3, 4):
        await stream.call.write(step(number, prompt(OUTSIDE), reset=reset and number == 3))
    await stream.call.write(step(5, prompt(SECOND)))
    await until(lambda: len(taken) == 5)
    decoder.go.set()
    answers = await stream.read(5)
    assert [a.step for a in answers] == [1, 2, 3, 4, 5]
    assert [a.superseded for a in answers] == [False, True, True, True, False]
    assert [len(a.masks) for a in answers] == [3, 0, 0, 0, 3 if reset else 1]
    assert [p.mask_input is None for p in decoder.decoded] == [True, reset]
    assert (await stream.ask(step(6, prompt(SECOND))))[0].step == 6


async def test_a_half_closed_stream_answers_its_steps_and_ends(
    service: Service, stream: Stream
) -> None:
    before = ended("OK")
    service.decoder.go.clear()
    await stream.call.write(step(1, prompt(FIRST)))
    await until(service.decoder.busy.is_set)
    await stream.call.write(step(2, prompt(SECOND)))
    await stream.call.done_writing()
    service.decoder.go.set()
    answers = await stream.read(2)
    assert await stream.call.read() is grpc.aio.EOF
    assert [(a.step, a.superseded) for a in answers] == [(1, False), (2, False)]
    assert await stream.call.code() is grpc.StatusCode.OK
    assert ended("OK") == before + 1


@pytest.mark.parametrize("busy", [False, True])
async def test_a_cancelled_stream_leaves_nothing(service: Service, busy: bool) -> None:
    service.embeddings.known.add(ID)
    await predicted(service, prompt(FIRST))
    service.decoder.busy.clear()
    before, count = asyncio.all_tasks(), cancelled(busy)
    stream = Stream(service)
    await stream.open()
    if busy:
        service.decoder.go.clear()
        await stream.call.write(step(1, prompt(FIRST)))
        await until(service.decoder.busy.is_set)
    await until(lambda: "SegmentationServicer._read_steps" in begun_since(before))
    stream.call.cancel()
    await until(lambda: cancelled(busy) == count + 1)
    service.decoder.go.set()
    await until(lambda: not begun_since(before))


def cancelled(busy: bool) -> float:
    """Streams counted as cancelled. gRPC may report an idle one as half-closed first: OK."""
    return ended("CANCELLED") if busy else ended("CANCELLED") + ended("OK")


async def test_draining_answers_accepted_steps_and_ends_the_streams(
    service: Service, stream: Stream
) -> None:
    idle = Stream(service)
    await idle.open()
    service.decoder.go.clear()
    await stream.call.write(step(1, prompt(FIRST)))
    await until(service.decoder.busy.is_set)
    service.draining.set()
    stop = asyncio.create_task(service.server.stop(grace=2 * CAP))
    retry = details.RetryInfo()
    assert await refused(idle.call, retry) is grpc.StatusCode.UNAVAILABLE
    assert retry.retry_delay.seconds == 1
    service.decoder.go.set()
    assert len((await stream.call.read()).answer.masks) == 3
    assert await refused(stream.call, retry) is grpc.StatusCode.UNAVAILABLE
    await asyncio.wait_for(stop, CAP)  # its calls have ended, not its grace


@pytest.mark.parametrize("requests", [[step(1, prompt(FIRST))], [opening(), opening()], []])
async def test_a_stream_is_one_open_and_then_steps(
    service: Service, requests: list[pb.InteractRequest]
) -> None:
    service.embeddings.known.add(ID)
    call = service.stub.Interact()
    for request in requests:
        await call.write(request)
    if not requests:
        await call.done_writing()
    detail = details.BadRequest()
    assert await refused(call, detail) is grpc.StatusCode.INVALID_ARGUMENT
    assert detail.field_violations[0].field == ("step" if len(requests) == 2 else "open")


async def test_opening_fails_as_predict_does(service: Service) -> None:
    info = details.ErrorInfo()
    call = service.stub.Interact()
    await call.write(opening())
    assert await refused(call, info) is grpc.StatusCode.NOT_FOUND
    assert info.reason == "EMBEDDING_NOT_CACHED"


async def test_an_idle_stream_keeps_no_image_and_finds_it_again(path: Path) -> None:
    async with grpc.aio.insecure_channel(path.decoder) as channel:
        call = rpc.SegmentationServiceStub(channel).Interact(timeout=CAP)
        await call.write(opening(data=png()))
        assert (await call.read()).HasField("opened")
        await call.write(step(1, prompt(FIRST)))
        first = (await call.read()).answer

        ((owner, key),) = path.images._images
        resident = path.images._images.peek(owner, key)
        assert resident is not None
        memory = weakref.ref(resident.image.prepared.x)
        del resident
        path.images.forget(Deletion(owner))
        # The resident images held the only reference that lasts.
        await until(lambda: gc.collect() >= 0 and memory() is None)

        await call.write(step(2, prompt(FIRST), reset=True))
        assert (await call.read()).answer.masks == first.masks
        assert len(path.images) == 1
        call.cancel()


async def test_a_stream_whose_image_is_gone_everywhere_ends_as_opening_it_would(
    service: Service, stream: Stream
) -> None:
    await stream.ask(step(1, prompt(FIRST)))
    service.embeddings.known.clear()
    info = details.ErrorInfo()
    await stream.call.write(step(2, prompt(FIRST)))
    assert await refused(stream.call, info) is grpc.StatusCode.NOT_FOUND
    assert info.reason == "EMBEDDING_NOT_CACHED"


async def test_steps_are_not_read_on_while_superseded_ones_pile_up(
    service: Service, stream: Stream, taken: list[Step]
) -> None:
    most = 2 + interaction.MOST_SUPERSEDED  # with the one in the decoder and the one that waits
    service.decoder.go.clear()
    await stream.call.write(step(1, prompt(FIRST)))
    await until(service.decoder.busy.is_set)
    for number in range(2, 151):
        await stream.call.write(step(number, prompt(FIRST)))
    await until(lambda: len(taken) == most)
    (other,) = await asyncio.gather(predicted_while_held(service))
    assert len(taken) == most

    service.decoder.go.set()
    answers = await stream.read(150)
    assert [answer.step for answer in answers] == list(range(1, 151))
    assert not answers[-1].superseded
    await other


async def predicted_while_held(service: Service) -> asyncio.Task[list[pb.Mask]]:
    """Make another call, which the server has read when this returns."""
    looked_for = service.embeddings.looked_for
    call = asyncio.create_task(predicted(service, prompt(FIRST)))
    await until(lambda: service.embeddings.looked_for > looked_for)
    return call


class TestWithFewStreams:
    @pytest.fixture
    def streams(self) -> StreamLimits:
        return StreamLimits(most=2)

    async def test_further_ones_are_refused_until_one_ends(self, service: Service) -> None:
        service.embeddings.known.add(ID)
        open_ones = [Stream(service), Stream(service)]
        for one in open_ones:
            await one.open()

        further = service.stub.Interact()
        await further.write(opening())
        retry = details.RetryInfo()
        assert await refused(further, retry) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert retry.retry_delay.seconds == 5

        before = ended("OK")
        await open_ones[0].call.done_writing()
        await until(lambda: ended("OK") == before + 1)
        await Stream(service).open()


async def test_the_client_opens_by_hash_or_bytes_and_clicks(service: Service) -> None:
    before = ended("OK")

    def click(image: Interaction) -> None:
        first = image.step([Click(100, 50)])
        with pytest.raises(InvalidInput, match="320 x 200") as caught:
            image.step([Click(321, 5)])
        assert caught.value.field == "prompt.points"
        second = image.step([Click(100, 50), Click(200, 90, on=False)])
        fresh = image.step([Click(100, 50)], reset=True)
        assert [len(a.masks) for a in (first, second, fresh)] == [3, 1, 3]
        assert first.size == image.image.size == SIZE
        assert all(
            np.array_equal(a.array(), b.array())
            for a, b in zip(first.masks, fresh.masks, strict=True)
        )

    def use() -> None:
        with Client(service.address, service.address) as client:
            for cache in ("MISS", "HIT"):
                with client.interact(b"the image") as image:
                    assert image.image.cache.name == cache
                    click(image)
        with (
            Client(service.address, model="sam9") as lost,
            pytest.raises(ModelNotFound, match="nano"),
        ):
            lost.interact(b"the image")

    await asyncio.to_thread(use)
    await until(lambda: ended("OK") == before + 2)


class Alarm:
    """Stands for the client's timer: rings when the test says so."""

    started: ClassVar[list[Alarm]] = []

    def __init__(self, seconds: float, ring: Callable[[], None]) -> None:
        self.seconds = seconds
        self.ring = ring

    def start(self) -> None:
        self.started.append(self)

    def cancel(self) -> None:
        self.started.remove(self)


async def test_the_client_gives_a_step_up_after_its_timeout(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use() -> None:
        with Client(service.address, timeout=7) as client, client.interact(b"the image") as image:
            service.decoder.go.clear()
            with pytest.raises(DeadlinePassed):
                image.step([Click(100, 50)])

    monkeypatch.setattr("samserve.client.interaction.Timer", Alarm)
    call = asyncio.create_task(asyncio.to_thread(use))
    await until(service.decoder.busy.is_set)
    (alarm,) = Alarm.started
    assert alarm.seconds == 7
    alarm.ring()
    await call
    service.decoder.go.set()


async def test_the_client_learns_that_its_replica_shuts_down(service: Service) -> None:
    def use() -> None:
        with Client(service.address, timeout=CAP) as client, client.interact(b"the image") as image:
            image.step([Click(100, 50)])
            loop.call_soon_threadsafe(service.draining.set)
            with pytest.raises(Unavailable, match="shutting down") as caught:
                while True:
                    image.step([Click(100, 50)])
            assert caught.value.retry_after == 1

    loop = asyncio.get_running_loop()
    await asyncio.to_thread(use)
