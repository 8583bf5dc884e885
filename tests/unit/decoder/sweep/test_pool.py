import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from samserve.core.errors import Overloaded
from samserve.decoder.admission import DecodeQueue
from samserve.decoder.sweep import pool as sweep_pool
from samserve.decoder.sweep.pool import SweepPool


@pytest.fixture
def quiet() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


async def test_results_come_in_order_and_few_pieces_are_ahead(quiet: threading.Event) -> None:
    pool, taken = SweepPool(2, quiet), []

    def pieces() -> object:
        for number in range(50):
            taken.append(number)
            yield partial(lambda number: number, number)

    results = []
    async for result in pool.results(pieces()):
        assert len(taken) <= len(results) + 5
        results.append(result)
    assert results == list(range(50))
    pool.close()


async def test_pieces_that_have_not_begun_are_dropped_with_their_caller(
    quiet: threading.Event,
) -> None:
    pool, go, busy = SweepPool(1, quiet), threading.Event(), threading.Event()
    begun: list[int] = []

    def piece(number: int) -> None:
        begun.append(number)
        busy.set()
        assert go.wait(60)

    async def consume() -> None:
        async for _ in pool.results(partial(piece, number) for number in range(9)):
            pass

    task = asyncio.create_task(consume())
    assert await asyncio.to_thread(busy.wait, 60)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    go.set()
    await pool.run(int)  # after all that was in the pool
    assert begun == [0]
    pool.close()


async def test_a_failed_piece_ends_the_others(quiet: threading.Event) -> None:
    pool = SweepPool(1, quiet)
    begun: list[int] = []

    def piece(number: int) -> None:
        begun.append(number)
        raise ValueError(number)

    with pytest.raises(ValueError, match="0"):
        async for _ in pool.results(partial(piece, number) for number in range(99)):
            pass
    assert len(begun) <= 3
    pool.close()


async def test_so_many_sweeps_are_in_progress_at_most(quiet: threading.Event) -> None:
    pool = SweepPool(1, quiet, sweeps=1)
    with pool.sweep(), pytest.raises(Overloaded, match="set of 1 sweeps is full"), pool.sweep():
        pass
    with pool.sweep():
        pass
    pool.close()


def test_a_piece_waits_for_clicks_but_not_for_ever(
    quiet: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = SweepPool(1, quiet)
    waited: list[float] = []
    now = [0.0]

    class Clicks:
        """Clicks that never end."""

        def is_set(self) -> bool:
            return False

        def wait(self, seconds: float) -> None:
            waited.append(seconds)
            now[0] += 0.4

    monkeypatch.setattr(sweep_pool.time, "monotonic", lambda: now[0])
    pool._quiet = Clicks()  # type: ignore[assignment]
    pause = pool.pause()
    for _ in range(9):
        pause()
    assert waited == pytest.approx([1.0, 0.6, 0.2])
    pool.close()


async def test_the_decoders_queue_is_quiet_while_it_has_no_work() -> None:
    queue, go = DecodeQueue(1, 1), threading.Event()
    assert queue.quiet.is_set()
    with ThreadPoolExecutor(1) as pool:
        running = asyncio.create_task(queue.run(pool, go.wait))
        await asyncio.sleep(0)
        assert not queue.quiet.is_set()
        go.set()
        await running
        await asyncio.sleep(0.01)
    assert queue.quiet.is_set()
