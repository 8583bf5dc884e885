from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st
from samserve.core.fair_lru import FairLru

OWNERS = st.sampled_from("abc")
KEYS = st.integers(0, 9)
PUTS = st.lists(st.tuples(OWNERS, KEYS, st.integers(1, 6)), max_size=80)


@given(PUTS)
def test_the_bound_holds_and_sizes_add_up(puts: list[tuple[str, int, int]]) -> None:
    cache: FairLru[int, int] = FairLru(10)
    for owner, key, size in puts:
        cache.put(owner, key, size, size)
        assert cache.size == sum(cache.get(*entry) or 0 for entry in list(cache)) <= 10


@given(PUTS)
def test_nobody_evicts_what_others_keep_within_their_share(
    puts: list[tuple[str, int, int]],
) -> None:
    cache: FairLru[int, int] = FairLru(24)
    cache.put("quiet", 0, 0, 6)  # a quarter, and there are four owners
    for owner, key, size in puts:
        cache.put(owner, key, size, size)
    assert ("quiet", 0) in cache


@given(st.lists(st.tuples(KEYS, st.booleans()), max_size=80))
def test_an_owner_alone_has_a_plain_lru(uses: list[tuple[int, bool]]) -> None:
    cache: FairLru[int, int] = FairLru(4)
    plain: OrderedDict[int, int] = OrderedDict()
    for key, put in uses:
        if put:
            cache.put("a", key, key)
            plain.pop(key, None)
            plain[key] = key
            if len(plain) > 4:
                plain.popitem(last=False)
        elif key in plain:
            plain.move_to_end(key)
            assert cache.get("a", key) == key
        else:
            assert cache.get("a", key) is None
    assert [key for _, key in cache] == list(plain)


def test_all_entries_of_an_owner_can_be_removed() -> None:
    cache: FairLru[str, int] = FairLru(10)
    for owner, key in (("a", "x"), ("a", "y"), ("b", "x")):
        cache.put(owner, key, 1)
    assert cache.pop_owner("a") == 2
    assert list(cache) == [("b", "x")]
    assert cache.size == 1
