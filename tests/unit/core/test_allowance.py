from hypothesis import given
from hypothesis import strategies as st
from samserve.core.allowance import LEASES, Allowance

PROCESSES = 3


class Counts:
    """The common place."""

    def __init__(self) -> None:
        self.totals: dict[int, int] = {}

    def count(self, allowance: Allowance) -> None:
        asked, window = allowance.need(), allowance.window
        if asked:
            self.totals[window] = self.totals.get(window, 0) + asked
            allowance.counted(window, asked, self.totals[window])


@given(
    st.integers(1, 500),
    st.lists(st.integers(0, PROCESSES - 1), min_size=1, max_size=1500),
)
def test_all_processes_together_allow_the_quota_and_hardly_more_or_less(
    limit: int, calls: list[int]
) -> None:
    common = Counts()
    processes = [Allowance(limit, 60) for _ in range(PROCESSES)]
    allowed = 0
    for process in calls:
        allowance = processes[process]
        allowed += allowance.take(1, 0.0) == 0
        common.count(allowance)

    assert allowed <= limit + PROCESSES
    unused = PROCESSES * max(1, limit // LEASES)
    assert allowed >= min(len(calls), limit - 2 * unused - PROCESSES)


def test_the_time_to_wait_is_true() -> None:
    common, allowance = Counts(), Allowance(5, 60)
    for _ in range(20):
        wait = allowance.take(1, 130.0)
        common.count(allowance)
    assert wait == 50
    assert allowance.take(1, 130.0 + wait - 0.001) > 0
    assert allowance.take(1, 130.0 + wait) == 0


def test_nothing_is_asked_for_while_the_lease_lasts() -> None:
    common, allowance = Counts(), Allowance(10_000, 60)
    asked = 0
    for _ in range(5000):
        assert allowance.take(1, 0.0) == 0
        asked += bool(allowance.need())
        common.count(allowance)
    assert asked <= 5000 / (10_000 // LEASES // 2) + 2


def test_without_an_answer_a_process_allows_the_quota_alone() -> None:
    allowance = Allowance(10, 60)
    assert [allowance.take(1, 0.0) == 0 for _ in range(12)] == [True] * 10 + [False] * 2


def test_an_answer_for_a_past_window_is_ignored() -> None:
    allowance = Allowance(10, 60)
    allowance.take(1, 0.0)
    allowance.take(1, 60.0)
    allowance.counted(0, 1, 10)
    assert allowance.take(1, 61.0) == 0


def test_large_amounts_are_counted_once_they_are_known() -> None:
    common, pixels = Counts(), Allowance(1_000_000, 3600)
    assert pixels.check(0.0) == 0
    pixels.take(12_000_000, 0.0)
    common.count(pixels)
    assert pixels.check(0.0) == 3600
    assert pixels.check(3600.0) == 0
