import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from samserve.core import runs
from samserve.core.crop import Crop
from samserve.core.errors import InvalidInput
from samserve.core.rle import decode_rle, encode_rle
from samserve.decoder.sweep.options import SweepOptions
from samserve.decoder.sweep.records import (
    Record,
    best_of_cleaned,
    box_of,
    clean,
    without_repeats,
)
from samserve.decoder.sweep.shortlist import Shortlist

WHOLE = Crop(0, 0, 40, 30)


def record(mask: np.ndarray, iou: float = 0.9, crop: Crop = WHOLE) -> Record:
    outline = runs.runs_of(mask)
    return Record(outline, box_of(outline), np.zeros(2, np.float32), crop, 0, iou, 0.97)


def rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((30, 40), bool)
    mask[y0:y1, x0:x1] = True
    return mask


@given(arrays(np.bool_, st.tuples(st.integers(0, 8), st.just(6), st.just(7))), st.integers(0, 9))
def test_no_mask_is_kept_twice_and_none_is_empty(masks: np.ndarray, least: int) -> None:
    cleaned = [clean(record(mask), least) for mask in masks]
    kept = list(without_repeats(best_of_cleaned(cleaned, 0.7)))
    pixels = [decode_rle(encode_rle(each.mask), 6, 7) for each in kept]
    assert len({mask.tobytes() for mask in pixels}) == len(kept)
    for each, mask in zip(kept, pixels, strict=True):
        assert mask.any() and runs.area(each.mask) == mask.sum()
        rows, columns = np.nonzero(mask)
        tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert each.box.tolist() == tight


def test_of_equal_masks_the_one_without_removed_regions_is_kept() -> None:
    speck = rectangle(5, 5, 20, 20) | rectangle(30, 25, 31, 26)
    first, second = clean(record(speck), 5), clean(record(rectangle(5, 5, 20, 20)), 5)
    assert first.changed and not second.changed
    assert best_of_cleaned([first, second], 0.7) == [second]


def test_the_better_mask_of_a_crop_and_the_smaller_crops_mask_are_kept() -> None:
    left = Crop(0, 0, 20, 30)
    shortlist = Shortlist(SweepOptions())
    shortlist.add([record(rectangle(2, 2, 10, 10), 0.89), record(rectangle(2, 2, 10, 11), 0.95)])
    shortlist.add([record(rectangle(25, 2, 35, 10))])
    shortlist.end_crop()
    assert [each.predicted_iou for each in shortlist.kept()] == [0.95, 0.9]

    shortlist.add([record(rectangle(2, 2, 11, 10), 0.9, left)])
    shortlist.end_crop()
    assert [each.crop for each in shortlist.kept()] == [left, WHOLE]


def test_masks_over_the_memory_limit_are_dropped_early_or_refused() -> None:
    shortlist = Shortlist(SweepOptions(), most_bytes=5000)
    for _ in range(50):
        shortlist.add([record(rectangle(2, 2, 10, 10))])
    shortlist.end_crop()
    assert len(shortlist.kept()) == 1

    with pytest.raises(InvalidInput, match="the limit is 5,000") as caught:
        for x in range(36):
            shortlist.add([record(rectangle(x, 0, x + 3, 30))])
    assert caught.value.field == "options.pred_iou_thresh"
