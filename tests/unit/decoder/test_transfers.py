import asyncio
from typing import Any

import pytest
from prometheus_client import REGISTRY
from samserve.core.errors import DeadlinePassed, Overloaded
from samserve.decoder import transfers as transfers_module
from samserve.decoder.transfers import COPIES, Transfers, bound_memory

LONG = 3600.0


class FakeContext:
    """A call whose message arrives, or is read, when the test says so."""

    def __init__(self) -> None:
        self.whole = asyncio.Event()

    async def read(self) -> Any:
        await self.whole.wait()
        return "message"

    async def write(self, message: Any) -> None:
        await self.whole.wait()


def ended(reason: str) -> float:
    labels = {"reason": reason}
    return REGISTRY.get_sample_value("samserve_transfers_ended_total", labels) or 0.0


async def begun(*transfers: Any) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(transfer) for transfer in transfers]
    await asyncio.sleep(0)
    return tasks


async def test_a_whole_message_is_returned_and_nothing_is_left() -> None:
    transfers, context = Transfers(LONG, 2**20), FakeContext()
    (call,) = await begun(transfers.receive(context))
    context.whole.set()
    assert await call == "message"
    assert transfers.end_all() == 0


async def test_a_message_that_takes_too_long_is_given_up() -> None:
    before = ended("time")
    with pytest.raises(DeadlinePassed, match="upload"):
        await Transfers(0.001, 2**20).receive(FakeContext())
    assert ended("time") == before + 1


async def test_a_stream_may_be_idle_between_two_messages() -> None:
    transfers, context = Transfers(0.001, 2**20), FakeContext()
    (step,) = await begun(transfers.receive(context, may_idle=True))
    with pytest.raises(DeadlinePassed):
        await transfers.receive(FakeContext())
    assert not step.done()
    context.whole.set()
    assert await step == "message"


async def test_an_answer_that_is_not_read_in_time_ends_its_call() -> None:
    (call,) = await begun(Transfers(0.001, 2**20).send(FakeContext(), "answer"))
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_out_of_memory_incomplete_messages_end_first_and_then_idle_streams() -> None:
    transfers, before = Transfers(LONG, 2**20), ended("memory")
    upload, answer, idle = await begun(
        transfers.receive(FakeContext()),
        transfers.send(FakeContext(), "answer"),
        transfers.receive(FakeContext(), may_idle=True),
    )
    assert transfers.end_all() == 2
    with pytest.raises(Overloaded) as caught:
        await upload
    assert caught.value.retry_after == transfers_module.RETRY_AFTER
    with pytest.raises(asyncio.CancelledError):
        await answer
    assert not idle.done()

    assert transfers.end_all() == 1
    with pytest.raises(Overloaded):
        await idle
    assert ended("memory") == before + 3


async def test_memory_is_looked_at_and_free_memory_is_returned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks, returned = iter([90, 110, 90, 90]), asyncio.Event()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(transfers_module, "CHECK_INTERVAL", 0)
    monkeypatch.setattr(
        transfers_module,
        "return_free_memory",
        lambda: loop.call_soon_threadsafe(returned.set),
    )
    transfers = Transfers(LONG, 2**20)
    (upload,) = await begun(transfers.receive(FakeContext()))
    watch = asyncio.create_task(bound_memory(transfers, 100, lambda: next(looks, 90)))
    with pytest.raises(Overloaded):
        await upload
    await returned.wait()
    watch.cancel()


def test_the_memory_of_this_process_is_read() -> None:
    assert transfers_module.resident_memory() > 2**20
    transfers_module.return_free_memory()


def test_images_beyond_the_memory_for_them_are_refused_until_others_are_done() -> None:
    transfers = Transfers(LONG, COPIES * 100)
    with transfers.hold_image(b"x" * 60):
        with pytest.raises(Overloaded), transfers.hold_image(b"x" * 60):
            pass
        with transfers.hold_image(None), transfers.hold_image(b"x" * 40):
            pass
    with transfers.hold_image(b"x" * 1000):  # a single one is bounded by its message
        pass
