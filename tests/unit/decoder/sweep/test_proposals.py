import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from samserve.core import runs
from samserve.core.crop import Crop
from samserve.core.errors import InvalidInput
from samserve.core.geometry import Size
from samserve.core.rle import encode_rle
from samserve.decoder.sweep.doubt import Doubt
from samserve.decoder.sweep.proposals import (
    Proposals,
    Region,
    Sureness,
    check_sureness,
    in_order,
    read_regions,
)
from samserve.decoder.sweep.records import Record, box_of

HERE = np.zeros(2, np.float32)
shape = (7, 9)
cases = st.integers(0, 6).flatmap(
    lambda count: st.tuples(
        arrays(np.bool_, (count, *shape)),
        arrays(np.float64, (count, 3), elements=st.sampled_from([0.2, 0.5, 0.9, 1.0])),
        arrays(np.bool_, shape),
    )
)


def record(mask: np.ndarray, iou: float, stability: float, disagreement: float) -> Record:
    outline = runs.runs_of(mask)
    crop = Crop(0, 0, mask.shape[1], mask.shape[0])
    found = Doubt(disagreement, HERE)
    return Record(outline, box_of(outline), HERE, crop, 0, iou, stability, doubt=found)


@given(cases)
def test_what_is_left_is_sorted_and_covered_once(case: tuple) -> None:
    masks, scores, accepted = case
    found = [record(mask, *score) for mask, score in zip(masks, scores, strict=True) if mask.any()]
    chosen = Proposals(runs.runs_of(accepted))
    chosen.consider(in_order(found, Sureness()))
    kept = chosen.kept

    sure = [Sureness().is_sure(each) for each in kept]
    assert sure == sorted(sure, reverse=True)
    for better, worse in itertools.pairwise(kept):
        same = Sureness().is_sure(better) == Sureness().is_sure(worse)
        better_score = better.predicted_iou * better.stability
        assert not same or better_score >= worse.predicted_iou * worse.stability
    covered = accepted.copy()
    for each in kept:
        mask = runs.dense(each.mask)
        assert mask.any() and (mask & covered).sum() <= mask.sum() / 2
        covered |= mask
        assert Sureness().is_sure(each) == (
            each.predicted_iou > 0.88 and each.stability >= 0.95 and each.doubt.disagreement <= 0.5
        )
    for each in found:  # nothing is left out without a reason
        mask = runs.dense(each.mask)
        assert any(each is one for one in kept) or (mask & covered).sum() > mask.sum() / 2


def test_regions_are_read_from_run_lengths_and_polygons() -> None:
    mask = np.zeros((20, 30), bool)
    mask[2:5, 3:9] = True
    rle = Region((encode_rle(runs.runs_of(mask)), 20, 30))
    square = np.array([[20, 10], [20, 14], [24, 14], [24, 10]], np.float32)
    polygon = Region(None, ((square,), (square + 2,)))
    union = runs.dense(read_regions([rle, polygon], Size(30, 20)))
    mask[10:14, 20:24] = True
    mask[12:16, 22:26] = True
    assert np.array_equal(union, mask)


@pytest.mark.parametrize(
    "region, text",
    [
        (Region((b"\xff", 20, 30)), "truncated"),
        (Region((b"5", 20, 30)), "cover 5 pixels, not 20 x 30"),
        (Region((b"5", 30, 20)), "20 x 30 pixels; the image has 30 x 20"),
    ],
)
def test_a_bad_region_is_refused_by_its_place(region: Region, text: str) -> None:
    with pytest.raises(InvalidInput, match=text) as caught:
        read_regions([Region(None), region], Size(30, 20))
    assert caught.value.field == "propose.accepted[1]"


def test_thresholds_are_from_0_to_1() -> None:
    check_sureness(Sureness())
    with pytest.raises(InvalidInput, match="sure_disagreement_thresh"):
        check_sureness(Sureness(disagreement_thresh=1.5))


def test_polygons_that_take_too_long_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samserve.decoder.sweep.proposals.MAX_ACCEPTED_CROSSINGS", 30)
    square = np.array([[0, 0], [0, 9], [9, 9], [9, 0]], np.float32)
    read_regions([Region(None, ((square,),))], Size(30, 20))
    with pytest.raises(InvalidInput, match="cross 36 columns; the limit is 30") as caught:
        read_regions([Region(None, ((square,),))] * 2, Size(30, 20))
    assert caught.value.field == "propose.accepted[1]"
