import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from samserve.core.runs import (
    Box,
    Runs,
    area,
    bits,
    box,
    counts,
    dense,
    row_changes,
    runs_of,
    spans,
)

shapes = st.tuples(st.integers(1, 40), st.integers(1, 60))


@given(shapes.flatmap(lambda shape: arrays(np.bool_, shape)))
@settings(max_examples=200)
def test_runs_and_pixels_agree(mask: np.ndarray) -> None:
    runs = runs_of(mask)
    assert np.array_equal(dense(runs), mask)
    assert np.array_equal(bits(runs), np.packbits(mask, axis=1))
    assert np.array_equal(row_changes(runs), np.flatnonzero(np.diff(mask.ravel(), prepend=False)))
    assert area(runs) == mask.sum()
    rows, columns = np.nonzero(mask)
    tight = (
        Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        if len(rows)
        else Box(0, 0, 0, 0)
    )
    assert box(runs) == tight
    each = spans(runs)
    assert (each.bottoms - each.tops).sum() == mask.sum()
    for column, top, bottom in zip(each.columns, each.tops, each.bottoms, strict=True):
        assert mask[top:bottom, column].all()


@pytest.mark.parametrize("shape", [(1, 1), (37, 4096), (4096, 37)])
@pytest.mark.parametrize("value", [False, True])
def test_a_mask_of_one_value_has_at_most_one_change(shape: tuple[int, int], value: bool) -> None:
    runs = runs_of(np.full(shape, value))
    assert runs.changes.tolist() == [0] * value
    assert counts(runs).tolist() == [0] * value + [shape[0] * shape[1]]
    assert np.array_equal(dense(runs), np.full(shape, value))


def test_a_run_continues_from_the_bottom_of_a_column_to_the_top_of_the_next() -> None:
    runs = Runs(4, 3, np.array([3, 9]))
    assert dense(runs).T.tolist() == [[0, 0, 0, 1], [1, 1, 1, 1], [1, 0, 0, 0]]
    assert box(runs) == Box(0, 0, 3, 4)
