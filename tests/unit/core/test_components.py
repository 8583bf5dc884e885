import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from samserve.core.components import components, fill_holes, remove_islands
from samserve.core.runs import dense, runs_of, spans

masks = st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(
    lambda shape: arrays(np.bool_, shape)
)


def sizes_by_cv2(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return labels, stats[:, -1]


def filled(mask: np.ndarray, least: int) -> np.ndarray:
    labels, sizes = sizes_by_cv2(~mask)
    return mask | (~mask & (sizes[labels] < least))


@given(masks)
@settings(max_examples=200)
def test_parts_are_opencvs(mask: np.ndarray) -> None:
    _, sizes = components(spans(runs_of(mask)))
    _, expected = sizes_by_cv2(mask)
    assert sorted(sizes.tolist()) == sorted(expected[1:].tolist())


@given(masks, st.integers(0, 30))
@settings(max_examples=200)
def test_small_regions_are_opencvs(mask: np.ndarray, least: int) -> None:
    runs = runs_of(mask)
    assert np.array_equal(dense(fill_holes(runs, least)), filled(mask, least))

    labels, sizes = sizes_by_cv2(mask)
    islands = dense(remove_islands(runs, least))
    if (sizes[1:] >= least).any():
        assert np.array_equal(islands, mask & (sizes[labels] >= least))
    else:  # the largest stays; of equally large ones any
        assert islands.sum() == sizes[1:].max(initial=0)
        assert not (islands & ~mask).any()


@pytest.mark.parametrize("side", [1, 2, 63, 400])
def test_a_spiral_is_one_part(side: int) -> None:
    mask = np.zeros((side, side), bool)
    for inset in range(0, side, 4):  # frames that are joined by one bridge each
        end = side - inset
        if end - inset <= 0:
            break
        mask[inset:end, inset:end] = True
        mask[inset + 1 : end - 1, inset + 1 : end - 1] = False
        mask[side // 2, inset : min(inset + 5, end)] = True
    _, sizes = components(spans(runs_of(mask)))
    assert len(sizes) == len(sizes_by_cv2(mask)[1]) - 1


def test_the_same_mask_is_returned_if_nothing_is_small() -> None:
    mask = runs_of(np.pad(np.ones((4, 4), bool), 2))
    assert fill_holes(mask, 5) is mask
    assert remove_islands(mask, 16) is mask
    assert remove_islands(mask, 17).changes.tolist() == mask.changes.tolist()


def test_of_an_empty_mask_nothing_is_removed() -> None:
    empty = runs_of(np.zeros((3, 3), bool))
    assert remove_islands(empty, 5) is empty
    assert fill_holes(empty, 5) is empty
