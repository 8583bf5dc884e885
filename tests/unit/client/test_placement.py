"""Which decoder a client's call goes to."""

from __future__ import annotations

import hashlib

import pytest
from samserve.client.placement import BALANCE, MOST_MISSES, Candidate, choose
from samserve.client.servers import _addresses, _target, key_of
from samserve.wire.metadata import IMAGE_KEY, TENANT_KEY

KEYS = [f"public/{hashlib.sha256(bytes([n % 256, n // 256])).hexdigest()}" for n in range(2000)]


def decoders(count: int) -> list[Candidate]:
    return [Candidate(f"10.0.0.{number}:8501") for number in range(count)]


def places(candidates: list[Candidate]) -> dict[str, str]:
    return {key: choose(candidates, key).address for key in KEYS}


def test_images_are_spread_evenly_and_stay_where_they_are() -> None:
    placed = places(decoders(4))
    assert placed == places(list(reversed(decoders(4))))
    counts = [list(placed.values()).count(each.address) for each in decoders(4)]
    assert min(counts) > 0.8 * len(KEYS) / 4


def test_only_the_images_of_a_decoder_that_left_move() -> None:
    before, after = places(decoders(4)), places(decoders(4)[:-1])
    gone = decoders(4)[-1].address
    assert all(after[key] == place for key, place in before.items() if place != gone)


def test_a_decoder_that_joins_takes_its_share_and_nothing_else_moves() -> None:
    before, after = places(decoders(4)), places(decoders(5))
    moved = [key for key in KEYS if before[key] != after[key]]
    assert {after[key] for key in moved} == {decoders(5)[-1].address}
    assert len(moved) / len(KEYS) <= 1 / 5 + 0.1


def test_a_decoder_has_at_most_twice_the_mean_of_calls() -> None:
    candidates = decoders(4)
    for _ in range(40):
        choose(candidates, KEYS[0]).calls += 1
    assert max(each.calls for each in candidates) <= BALANCE * 41 / 4 + 1


def test_the_attempts_of_a_call_go_to_different_decoders_while_there_are_any() -> None:
    candidates = decoders(3)
    tried: list[Candidate] = []
    for _ in range(3):
        tried.append(choose(candidates, KEYS[0], tried))
    assert len(set(tried)) == 3
    assert choose(candidates, KEYS[0], tried) in candidates


def test_a_decoder_that_is_unreachable_or_silent_is_left_out_until_it_answers() -> None:
    candidates = decoders(2)
    first = choose(candidates, KEYS[0])
    first.note_miss(unreachable=True)
    assert choose(candidates, KEYS[0]) is not first
    first.note_answer()
    for _ in range(MOST_MISSES):
        assert choose(candidates, KEYS[0]) is first
        first.note_miss(unreachable=False)
    assert choose(candidates, KEYS[0]) is not first


def test_if_all_are_left_out_one_is_asked_all_the_same() -> None:
    candidates = decoders(2)
    for each in candidates:
        each.note_miss(unreachable=True)
    assert choose(candidates, KEYS[0]) in candidates


def test_a_call_is_placed_by_tenant_and_image() -> None:
    image = (IMAGE_KEY, "abc")
    assert key_of(((TENANT_KEY, "a"), image)) != key_of(((TENANT_KEY, "b"), image))
    assert key_of(((TENANT_KEY, "a"),)) is None


@pytest.mark.parametrize(
    ("target", "addresses"),
    [
        ("ipv4:10.0.0.1:1,10.0.0.2:2", {"10.0.0.1:1", "10.0.0.2:2"}),
        ("a:1, b:2", {"a:1", "b:2"}),
        ("dns:///127.0.0.1:5", {"127.0.0.1:5"}),
        ("dns:///[::1]:5", {"[::1]:5"}),
        ("dns:///nowhere.invalid:5", set()),
    ],
)
def test_a_target_names_its_addresses(target: str, addresses: set[str]) -> None:
    assert _addresses(target) == addresses


def test_grpc_itself_gets_a_target_that_it_knows() -> None:
    assert _target("10.0.0.1:1,10.0.0.2:2") == "ipv4:10.0.0.1:1,10.0.0.2:2"
    assert _target("a:1,b:2") == "a:1"
    assert _target("dns:///a:1") == "dns:///a:1"
