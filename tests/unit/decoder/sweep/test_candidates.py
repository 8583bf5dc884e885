from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samserve.core import runs
from samserve.core.crop import Crop, whole
from samserve.core.geometry import Frame, Size
from samserve.decoder.masks.outline import outline
from samserve.decoder.sam.mask_decoder import Candidates
from samserve.decoder.sweep.candidates import Question, stability_over
from samserve.decoder.sweep.candidates import judge as judge_one
from samserve.decoder.sweep.options import SweepOptions
from samserve.decoder.sweep.records import Record

FRAME = Frame(256)
SIDE = 64


def blob(x: float, y: float, radius: float, slope: float) -> np.ndarray:
    """Logits of a disc, [64, 64]; the steeper, the more stable."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    logits = (radius - np.hypot(columns + 0.5 - x, rows + 0.5 - y)) * slope
    return logits.astype(np.float32)


def candidates(*masks: np.ndarray, ious: tuple[float, ...] = (0.95, 0.9, 0.85)) -> Candidates:
    count = len(masks)
    order = np.arange(count)
    scores = np.array(ious[:count], np.float32)
    return Candidates(np.stack(masks), scores, np.ones(count, np.float32), order)


def question(crop: Crop, size: Size) -> Question:
    return Question(None, crop, np.array([3, 4], np.float32), size)  # type: ignore[arg-type]


def judge(
    found: Candidates, question: Question, frame: Frame, options: SweepOptions
) -> Iterator[Record]:
    """Judge all candidates of a point, in the decoder's order."""
    for index in np.argsort(found.order):
        record = judge_one(found, int(index), question, frame, options)
        if record is not None:
            yield record


def test_masks_over_both_thresholds_are_kept_in_the_decoders_order() -> None:
    size = Size(512, 512)
    sharp, soft = blob(20, 20, 9, 20), blob(40, 40, 9, 0.5)
    found = Candidates(
        np.stack([sharp, soft, sharp, sharp]),
        np.array([0.99, 0.98, 0.95, 0.88], np.float32),
        np.ones(4, np.float32),
        np.array([2, 1, 0, 3]),
    )
    kept = list(judge(found, question(whole(size), size), FRAME, SweepOptions()))
    assert [each.number for each in kept] == [0, 2]  # 3 is not over .88, the soft one not stable


def test_a_crops_mask_lies_where_the_crop_does() -> None:
    size, crop = Size(600, 500), Crop(100, 50, 356, 306)
    (kept,) = judge(candidates(blob(32, 20, 8, 20)), question(crop, size), FRAME, SweepOptions())
    assert (kept.mask.width, kept.mask.height) == (600, 500)
    assert np.abs(kept.box - (100 + 96, 50 + 48, 100 + 160, 50 + 112)).max() <= 1
    assert kept.point.tolist() == [103, 54]


def test_a_mask_at_an_inner_edge_of_its_crop_is_dropped() -> None:
    size = Size(600, 500)
    cut = candidates(blob(60, 30, 8, 20))
    assert not list(judge(cut, question(Crop(0, 0, 256, 256), size), FRAME, SweepOptions()))
    assert list(judge(cut, question(whole(Size(256, 256)), Size(256, 256)), FRAME, SweepOptions()))


def test_a_threshold_moves_the_edge() -> None:
    size = Size(256, 256)
    areas = []
    for threshold in (-10.0, 0.0, 10.0):
        options = SweepOptions(mask_threshold=threshold, stability_score_thresh=0.8)
        (kept,) = judge(
            candidates(blob(32, 32, 12, 5)), question(whole(size), size), FRAME, options
        )
        areas.append(runs.area(kept.mask))
    radii = np.sqrt(np.array(areas) / np.pi) / 4
    assert np.allclose(radii, [14, 12, 10], atol=0.1)


def test_zero_thresholds_keep_everything_but_empty_masks() -> None:
    size = Size(256, 256)
    options = SweepOptions(pred_iou_thresh=0, stability_score_thresh=0)
    masks = candidates(blob(32, 32, 9, 0.01), blob(9, 9, -5, 1), ious=(0.0, 0.9))
    kept = list(judge(masks, question(whole(size), size), FRAME, options))
    assert [each.number for each in kept] == [0]


@given(st.floats(5, 59), st.floats(5, 59), st.floats(2, 20), st.floats(0.5, 4))
@settings(max_examples=50)
@pytest.mark.parametrize("size, error", [(Size(640, 480), 0.05), (Size(70, 90), 1e-6)])
def test_stability_is_that_of_masks_at_the_images_size(
    size: Size, error: float, x: float, y: float, radius: float, slope: float
) -> None:
    logits = blob(x, y, radius, slope)
    certain, possible = (runs.area(outline(logits - cut, size, FRAME)) for cut in (1, -1))
    options = SweepOptions(stability_score_thresh=0)
    expected = certain / possible if possible else 0.0
    assert stability_over(logits, size, FRAME, options) == pytest.approx(expected, abs=error)


def test_an_unstable_mask_is_dropped_without_being_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("samserve.decoder.sweep.candidates.scale_bilinear")
    assert stability_over(blob(30, 30, 9, 0.3), Size(64, 64), FRAME, SweepOptions()) is None
