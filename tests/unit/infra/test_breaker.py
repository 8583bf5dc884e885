import asyncio
from contextlib import ExitStack, suppress

import pytest
from samserve.infra.breaker import Breaker, BreakerOpen


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker("a neighbour", failures=3, rest=2, now=clock)


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        with suppress(OSError), breaker.guard():
            raise OSError


def test_failures_in_a_row_open_the_circuit_and_calls_are_refused(breaker: Breaker) -> None:
    fail(breaker, 3)
    with pytest.raises(BreakerOpen), breaker.guard():
        pytest.fail("tried")


def test_a_success_between_failures_keeps_the_circuit_closed(breaker: Breaker) -> None:
    for _ in range(5):
        fail(breaker, 2)
        with breaker.guard():
            pass


def test_overlapping_failures_count_as_one(breaker: Breaker, clock: Clock) -> None:
    for _ in range(2):
        clock.seconds += 1
        with ExitStack() as together:
            for _ in range(9):
                together.enter_context(suppress(OSError))
                together.enter_context(breaker.guard())
            clock.seconds += 1
            raise OSError
    assert not breaker.open


def test_after_the_rest_one_call_tries_and_others_are_still_refused(
    breaker: Breaker, clock: Clock
) -> None:
    fail(breaker, 3)
    clock.seconds = 2.0
    with breaker.guard(), pytest.raises(BreakerOpen), breaker.guard():
        pytest.fail("a second one tried")
    assert not breaker.open


def test_a_failed_trial_starts_another_rest(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.seconds = 2.0
    fail(breaker)
    clock.seconds = 3.9
    with pytest.raises(BreakerOpen), breaker.guard():
        pytest.fail("tried")
    clock.seconds = 4.0
    with breaker.guard():
        pass
    assert not breaker.open


def test_after_a_cancelled_trial_the_next_call_tries(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.seconds = 2.0
    with suppress(asyncio.CancelledError), breaker.guard():
        raise asyncio.CancelledError
    with breaker.guard():
        pass
    assert not breaker.open
