from samserve.identity import failures as failures_module
from samserve.identity.failures import Failures


def test_an_address_may_fail_a_few_times_and_then_at_a_pace() -> None:
    now = [0.0]
    failures = Failures(burst=3, per_minute=6, clock=lambda: now[0])
    assert [failures.add("a") for _ in range(3)] == [0, 0, 0]
    wait = failures.add("a")
    assert wait == 10
    assert failures.add("b") == 0

    now[0] = 60
    assert failures.add("a") == 0


def test_the_time_to_wait_is_true() -> None:
    now = [0.0]
    failures = Failures(burst=1, per_minute=60, clock=lambda: now[0])
    failures.add("a")
    now[0] += failures.add("a") + 1  # the attempt itself counts
    assert failures.add("a") == 0


def test_the_addresses_are_bounded() -> None:
    failures = Failures(burst=1, per_minute=1)
    for number in range(failures_module.MOST_ADDRESSES + 10):
        failures.add(str(number))
    assert len(failures._spent) == failures_module.MOST_ADDRESSES
