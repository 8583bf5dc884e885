"""What the clients send for GenerateMasks, and how they read it."""

import numpy as np
import pytest
from samserve.client import GridOptions, Mask, Polygon, Sureness
from samserve.client.everything import EverythingReader, write_options, write_proposals
from samserve.core.errors import InvalidInput, Unavailable
from samserve.core.geometry import Size
from samserve.core.rle import decode_rle
from samserve.core.runs import runs_of
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import types_pb2 as types


def test_only_given_options_are_sent() -> None:
    assert write_options(GridOptions()) == pb.SweepOptions()
    written = write_options(
        GridOptions(
            points_per_side=np.int64(8),
            pred_iou_thresh=0,
            multimask_output=False,
            point_grids=[np.array([[0.5, 0.25]])],
        )
    )
    assert written.points_per_side == 8
    assert written.HasField("pred_iou_thresh") and written.pred_iou_thresh == 0
    assert written.HasField("multimask_output") and not written.HasField("crop_n_layers")
    assert list(written.point_grids[0].xy) == [0.5, 0.25]


@pytest.mark.parametrize(
    "values, text",
    [
        ({"points_per_side": "many"}, "options.points_per_side: 'many' is a str"),
        ({"points_per_side": -1}, "invalid options.points_per_side -1: expected a whole number"),
        ({"crop_n_layers": 2**40}, "invalid options.crop_n_layers 1099511627776"),
        ({"points_per_side": float("inf")}, "invalid options.points_per_side inf"),
        ({"points_per_side": 1.5}, "invalid options.points_per_side 1.5: expected a whole"),
        ({"point_grids": [np.zeros(4)]}, r"point_grids\[0\]: an array \[4\]; expected \[N, 2\]"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_sent(values: dict, text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        write_options(GridOptions(**values))


def test_accepted_regions_are_masks_polygons_pixels_or_runs() -> None:
    pixels = np.zeros((4, 6), bool)
    pixels[1:3, 2:5] = True
    ring = np.array([[2, 1], [2, 3], [5, 3], [5, 1]], np.float32)
    rle = write_proposals([pixels], Sureness()).accepted[0].rle
    mask = Mask(Size(6, 4), rle.counts, 0.9, 0.9, 6, (2, 1, 5, 3), b"", b"", [], b"")

    written = write_proposals([mask, runs_of(pixels), [Polygon(ring, [])]], Sureness(0.7))
    assert written.sure_pred_iou_thresh == pytest.approx(0.7)
    assert not written.HasField("sure_disagreement_thresh")
    for region in written.accepted[:2]:
        assert np.array_equal(decode_rle(region.rle.counts, 4, 6), pixels)
    assert list(written.accepted[2].polygons.polygons[0].exterior.xy) == [2, 1, 2, 3, 5, 3, 5, 1]
    with pytest.raises(InvalidInput, match=r"accepted\[0\] is a ndarray; expected a Mask"):
        write_proposals([np.zeros((4, 6))], Sureness())


def test_an_answer_without_its_end_is_not_taken_for_one() -> None:
    done: list[tuple[int, int]] = []
    reader = EverythingReader(lambda points, total: done.append((points, total)))
    response = pb.GenerateMasksResponse
    image = types.ImageRef(image_id="ab", width=6, height=4)
    started = response.Started(image=image, points=9, cache=types.CACHE_STATUS_HIT)
    reader.read(response(started=started))
    reader.read(response(progress=response.Progress(points=4)))
    assert done == [(0, 9), (4, 9)]
    with pytest.raises(Unavailable, match="ended early"):
        reader.everything()

    reader.read(response(record=response.Record(ask=types.Point(x=1, y=2))))
    reader.read(response(finished=response.Finished(masks=5)))
    found = reader.everything()
    assert (found.size, found.found, found.records[0].ask) == (Size(6, 4), 5, (1, 2))
