import asyncio
from contextlib import ExitStack

import pytest
from samserve.core.caller import Caller, acting_for
from samserve.core.errors import Overloaded
from samserve.embedding.admission import EncodeSlots, Priority


class Visitor:
    """A caller that takes a slot and holds it until told to leave."""

    def __init__(
        self, admission: EncodeSlots, priority: Priority, entered: list[str], name: str
    ) -> None:
        self.go = asyncio.Event()
        self.task = asyncio.create_task(self._visit(admission, priority, entered, name))

    async def _visit(
        self, admission: EncodeSlots, priority: Priority, entered: list[str], name: str
    ) -> None:
        with await admission.slot(priority):
            entered.append(name)
            await self.go.wait()

    async def leave(self) -> None:
        self.go.set()
        await self.task


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_images_in_flight_are_bounded_and_interactive_callers_go_first() -> None:
    admission, entered = EncodeSlots(slots=2, queue=8), list[str]()
    visitors = {}
    for name in ("bulk 1", "bulk 2", "bulk 3", "click 1", "bulk 4", "click 2"):
        priority = Priority.BULK if "bulk" in name else Priority.INTERACTIVE
        visitors[name] = Visitor(admission, priority, entered, name)
        await settled()
    assert entered == ["bulk 1", "bulk 2"]
    for name in ("bulk 1", "bulk 2", "click 1", "click 2", "bulk 3", "bulk 4"):
        await visitors[name].leave()
        await settled()
    assert entered == ["bulk 1", "bulk 2", "click 1", "click 2", "bulk 3", "bulk 4"]


async def test_a_full_queue_refuses_callers_with_a_time_to_retry() -> None:
    admission, entered = EncodeSlots(slots=1, queue=1), list[str]()
    inside = Visitor(admission, Priority.BULK, entered, "inside")
    waiting = Visitor(admission, Priority.BULK, entered, "waiting")
    await settled()
    with pytest.raises(Overloaded) as refusal:
        await admission.slot(Priority.INTERACTIVE)
    assert 0.1 <= refusal.value.retry_after <= 10
    await inside.leave()
    await waiting.leave()
    assert entered == ["inside", "waiting"]


async def test_a_caller_that_leaves_the_queue_gets_no_slot_and_loses_none() -> None:
    admission, entered = EncodeSlots(slots=1, queue=8), list[str]()
    inside, gone, next_one = (
        Visitor(admission, Priority.BULK, entered, name) for name in ("inside", "gone", "next")
    )
    await settled()
    gone.task.cancel()
    await settled()
    await inside.leave()
    await settled()
    assert entered == ["inside", "next"]
    await next_one.leave()
    with await admission.slot(Priority.BULK):
        pass


async def test_a_caller_cancelled_just_as_its_slot_is_granted_passes_it_on() -> None:
    admission, entered = EncodeSlots(slots=1, queue=8), list[str]()
    inside = ExitStack()
    inside.enter_context(await admission.slot(Priority.BULK))
    given, after = (Visitor(admission, Priority.BULK, entered, name) for name in ("given", "after"))
    await settled()
    inside.close()  # its slot is promised to "given", which has not run yet
    given.task.cancel()
    await settled()
    assert entered == ["after"]
    await after.leave()


async def test_a_failure_inside_frees_the_slot() -> None:
    admission = EncodeSlots(slots=1, queue=0)
    with pytest.raises(ValueError, match="bad"), await admission.slot(Priority.BULK):
        raise ValueError("bad")
    with await admission.slot(Priority.BULK):
        pass


async def test_tenants_share_the_slots_and_a_full_queue_refuses_the_one_with_most() -> None:
    admission, entered = EncodeSlots(slots=1, queue=5), list[str]()

    def visit(tenant: str, priority: Priority = Priority.BULK) -> Visitor:
        with acting_for(Caller(tenant, tenant)):
            return Visitor(admission, priority, entered, tenant)

    visitors = [visit("a") for _ in range(6)]
    await settled()
    visitors += [visit("b"), visit("b"), visit("c", Priority.INTERACTIVE)]
    await settled()
    refused = [visitor for visitor in visitors if visitor.task.done()]
    assert len(refused) == 3
    assert all(isinstance(visitor.task.exception(), Overloaded) for visitor in refused)

    for _ in range(6):
        next(v for v in visitors if not v.task.done() and not v.go.is_set()).go.set()
        await settled()
    for visitor in visitors:
        visitor.go.set()
    await asyncio.gather(*(visitor.task for visitor in visitors), return_exceptions=True)
    assert entered == ["a", "c", "a", "b", "a", "b"]
