from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samserve.core import fair_queue
from samserve.core.fair_queue import FairQueue

WEIGHTS = st.dictionaries(st.sampled_from("abcd"), st.sampled_from([0.5, 1, 2, 5]), min_size=1)
STEPS = st.lists(st.sampled_from([*"abcd", "pop", "pop", "leave"]), max_size=120)


@given(WEIGHTS, st.integers(1, 60), st.integers(0, 30))
def test_tenants_that_wait_get_their_shares(
    weights: dict[str, float], pops: int, before: int
) -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(pops + before):
        for tenant, weight in weights.items():
            queue.push(tenant, tenant, weight)
    for _ in range(before):
        queue.pop()

    served = Counter(queue.pop() for _ in range(pops))
    for a, weight_a in weights.items():
        for b, weight_b in weights.items():
            apart = served[a] / weight_a - served[b] / weight_b
            assert abs(apart) <= 1 / weight_a + 1 / weight_b + 1e-9


@given(STEPS, st.integers(0, 200))
def test_nobody_starves(steps: list[str], flood: int) -> None:
    """However much others send, one item waits for a few of each other tenant at most."""
    queue: FairQueue[str] = FairQueue()
    for step in steps:
        if step in "abcd":
            queue.push(step, step)
        elif len(queue):
            queue.pop()
    for _ in range(flood):
        queue.push("a", "a")

    queue.push("quiet", "quiet")
    waited = 0
    while queue.pop() != "quiet":
        waited += 1
        queue.push("a", "a")
    assert waited <= 2 * 4


@given(STEPS)
def test_each_tenants_items_keep_their_order_and_none_is_lost(steps: list[str]) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    waiting: dict[str, deque[tuple[str, int]]] = {}
    numbers: dict[tuple[str, int], int] = {}
    for at, step in enumerate(steps):
        if step in "abcd":
            numbers[step, at] = queue.push(step, (step, at))
            waiting.setdefault(step, deque()).append((step, at))
        elif not len(queue):
            with pytest.raises(IndexError):
                queue.pop()
        elif step == "pop":
            item = queue.pop()
            assert waiting[item[0]].popleft() == item
        else:
            item = next(line[-1] for line in waiting.values() if line)
            assert queue.remove(numbers[item]) == item
            assert queue.remove(numbers[item]) is None
            waiting[item[0]].pop()
        assert len(queue) == sum(map(len, waiting.values()))


@given(st.lists(st.booleans(), max_size=60))
def test_a_tenant_alone_is_served_first_come_first_served(steps: list[bool]) -> None:
    queue: FairQueue[int] = FairQueue()
    plain: deque[int] = deque()
    for at, push in enumerate(steps):
        if push:
            queue.push("a", at)
            plain.append(at)
        elif plain:
            assert queue.pop() == plain.popleft()


def test_a_tenant_that_was_idle_has_saved_up_nothing() -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(40):
        queue.push("a", "a")
    for _ in range(20):
        queue.pop()
    for _ in range(20):
        queue.push("b", "b")
    assert Counter(queue.pop() for _ in range(20)) == {"a": 10, "b": 10}


def test_what_leaves_costs_its_tenant_nothing() -> None:
    queue: FairQueue[str] = FairQueue()
    left = [queue.push("a", "gone") for _ in range(10)]
    queue.push("a", "a")
    queue.push("b", "b")
    for number in left:
        queue.remove(number)
    assert [queue.pop(), queue.pop()] == ["a", "b"]


def test_a_full_queue_makes_room_at_the_cost_of_who_has_most() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(6):
        queue.push("a", f"a{number}")
    assert queue.pop_excess("a", 1) is None
    assert queue.pop_excess("b", 1) == "a5"
    queue.push("b", "b0")
    assert queue.pop_excess("b", 1, lambda item: item == "a0") is None
    for name in ("b1", "b2"):
        assert queue.pop_excess("b", 1) is not None
        queue.push("b", name)
    assert queue.pop_excess("b", 1) is None  # three of each
    assert queue.pop_excess("b", 4) == "a2"


def test_the_tags_that_are_kept_are_bounded() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.push("busy", 0)
    for number in range(1000):
        queue.push(str(number), number)
        queue.push("busy", number)
        queue.pop()
        queue.pop()
    assert len(queue._finish) <= 2 * fair_queue.MOST_IDLE
