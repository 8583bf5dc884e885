from types import SimpleNamespace

import pytest
from samserve.decoder import pace as pace_module
from samserve.decoder.pace import Pace


class Time:
    """The event loop's time; sleeping passes it."""

    def __init__(self) -> None:
        self.now = 100.0

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    fake = SimpleNamespace(get_running_loop=lambda: clock, sleep=clock.sleep)
    monkeypatch.setattr(pace_module, "asyncio", fake)
    return clock


async def test_events_pass_at_the_rate_after_a_burst_of_a_second(clock: Time) -> None:
    pace, started = Pace(per_second=50), clock.now
    for _ in range(50):
        await pace.wait()
    assert clock.now == started
    for _ in range(100):
        await pace.wait()
    assert clock.now == pytest.approx(started + 2)


async def test_an_idle_stream_does_not_save_up_more_than_a_burst(clock: Time) -> None:
    pace = Pace(per_second=50)
    await pace.wait()
    clock.now += 3600
    started = clock.now
    for _ in range(100):
        await pace.wait()
    assert clock.now == pytest.approx(started + 1)
