"""Annotations, drafts and predictions are cut out before a body is parsed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samserve.core.errors import InvalidInput
from samserve.gateway.label_studio.body import MOST_MARKS, cut_unused

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='ab"\\[]{}:, ü'),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(alphabet='ab"\\[]{}', max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
unused = st.dictionaries(
    st.sampled_from(["annotations", "drafts", "predictions"]), st.lists(values, max_size=4)
)


@settings(max_examples=50)
@given(st.lists(st.tuples(unused, values), max_size=3), st.booleans(), st.booleans())
def test_only_the_unused_lists_change(
    tasks: list[tuple[dict[str, Any], Any]], ascii_only: bool, compact: bool
) -> None:
    whole = [{"id": 1, **lists, "data": data} for lists, data in tasks]
    without = [{"id": 1, **{name: [] for name in lists}, "data": data} for lists, data in tasks]
    separators = (",", ":") if compact else None
    body = json.dumps({"tasks": whole}, ensure_ascii=ascii_only, separators=separators).encode()
    assert json.loads(cut_unused(body)) == {"tasks": without}


def test_text_that_looks_like_a_key_stays() -> None:
    body = json.dumps({"a": '"annotations": [1, 2', '"drafts': [1], "drafts": None}).encode()
    assert cut_unused(body) == body


def test_what_is_kept_does_not_grow_with_a_hundred_masks() -> None:
    region = {"value": {"format": "rle", "rle": [255] * 10_000, "brushlabels": ["Coin"]}}
    task = {"id": 1, "annotations": [{"result": [region] * 100}], "drafts": [], "data": {"a": 1}}
    body = json.dumps({"tasks": [task]}).encode()
    assert len(body) > 5_000_000
    assert len(cut_unused(body)) < 100


@pytest.mark.parametrize(
    "body",
    [
        b'{"annotations": [',
        b'{"annotations": [[]',
        b'{"annotations": ["]',
        b'{"annotations": ["\\"]',
        b'{"annotations": [' + b"[" * (MOST_MARKS + 1),
        b'{"annotations": [' + b'"a",' * (MOST_MARKS + 1),
    ],
    ids=range(6),
)
def test_a_list_without_an_end_or_of_too_many_parts_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="body") as caught:
        cut_unused(body)
    assert caught.value.field == "body"


def test_invalid_json_is_left_for_the_parser() -> None:
    for body in (b"", b"{", b'"annotations"', b'{"annotations": 1}', b'{"annotations" [1]}'):
        assert cut_unused(body) == body
