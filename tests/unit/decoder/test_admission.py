from contextlib import ExitStack

import pytest
from prometheus_client import REGISTRY
from samserve.core.errors import Overloaded
from samserve.decoder import admission as admission_module
from samserve.decoder.admission import DecodeQueue


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(admission_module, "time", clock)
    return clock


def full(admission: DecodeQueue, places: int) -> ExitStack:
    taken = ExitStack()
    for _ in range(places):
        taken.enter_context(admission.place())
    return taken


def refusal(admission: DecodeQueue) -> Overloaded:
    with pytest.raises(Overloaded) as caught, admission.place():
        pass
    return caught.value


def waiting() -> float:
    return REGISTRY.get_sample_value("samserve_decode_waiting") or 0.0


def test_calls_beyond_threads_and_queue_are_refused_with_a_time_to_retry() -> None:
    admission = DecodeQueue(threads=2, queue=3)
    with full(admission, 5):
        assert waiting() == 3
        assert 0.1 <= refusal(admission).retry_after <= 10
    assert waiting() == 0
    with full(admission, 5):
        pass


def test_a_call_counts_by_its_prompts() -> None:
    admission = DecodeQueue(threads=2, queue=3)
    with admission.place(4):
        with admission.place(1):
            refusal(admission)
        with pytest.raises(Overloaded), admission.place(2):
            pass


def test_a_call_with_more_prompts_than_places_is_accepted_when_idle() -> None:
    admission = DecodeQueue(threads=2, queue=3)
    with admission.place(), pytest.raises(Overloaded), admission.place(64):
        pass
    with admission.place(64):
        refusal(admission)
    with full(admission, 5):
        pass


def test_a_failure_frees_the_place() -> None:
    admission = DecodeQueue(threads=1, queue=0)
    with pytest.raises(ValueError, match="bad"), admission.place():
        raise ValueError("bad")
    with admission.place():
        pass


@pytest.mark.parametrize(
    ("seconds", "least", "most"), [(0.02, 0.4, 0.7), (0.001, 0.1, 0.1), (5, 10, 10)]
)
def test_the_time_to_retry_follows_the_recent_pace(
    clock: Clock, seconds: float, least: float, most: float
) -> None:
    admission = DecodeQueue(threads=2, queue=30)
    line = [full(admission, 1) for _ in range(32)]
    for _ in range(50):  # one leaves and another comes
        clock.now += seconds
        line.pop(0).close()
        line.append(full(admission, 1))
    assert least <= refusal(admission).retry_after <= most
    for one in line:
        one.close()


def test_idle_time_does_not_count_as_slow(clock: Clock) -> None:
    admission = DecodeQueue(threads=1, queue=1)
    with full(admission, 2):
        before = refusal(admission).retry_after
    clock.now += 3600
    with full(admission, 2):
        assert refusal(admission).retry_after == before
