import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samserve.core.crop import Crop
from samserve.core.errors import InvalidInput
from samserve.core.geometry import Size
from samserve.decoder.sweep.grid import grid_crops, layer_crops, point_grid
from samserve.decoder.sweep.options import SweepOptions, check_options

sizes = st.builds(Size, st.integers(1, 5000), st.integers(1, 5000))


def test_a_grid_has_the_centres_of_its_cells_row_by_row() -> None:
    assert point_grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert point_grid(0).shape == (0, 2)


def test_crops_of_a_photo_are_sams() -> None:
    # generate_crop_boxes((1000, 1500), 1, 512 / 1500): overlap 341
    assert layer_crops(Size(1500, 1000), 1, 512 / 1500) == [
        Crop(0, 0, 921, 671),
        Crop(0, 330, 921, 1000),
        Crop(580, 0, 1500, 671),
        Crop(580, 330, 1500, 1000),
    ]


@given(sizes, st.integers(0, 2), st.floats(0, 1))
def test_crops_lie_inside_and_are_different(size: Size, layer: int, ratio: float) -> None:
    crops = layer_crops(size, layer, ratio)
    assert len(set(crops)) == len(crops) <= 4**layer
    assert all(crop.is_inside(size) for crop in crops)


@given(sizes, st.integers(0, 2), st.integers(1, 3))
def test_points_lie_inside_their_crops(size: Size, layers: int, factor: int) -> None:
    options = SweepOptions(
        points_per_side=8, crop_n_layers=layers, crop_n_points_downscale_factor=factor
    )
    grids = grid_crops(size, options)
    assert sum(len(grid.points) for grid in grids) <= options.total_points
    for grid in grids:
        assert len(grid.points) == options.points_in_layer(grid.layer)
        assert (grid.points > 0).all()
        assert (grid.points < (grid.crop.size.width, grid.crop.size.height)).all()


def test_grids_of_the_callers_replace_the_regular_ones() -> None:
    grids = (np.array([[0.5, 0.25]], np.float32), np.zeros((2, 2), np.float32))
    options = SweepOptions(point_grids=grids, crop_n_layers=1)
    check_options(options)
    assert options.total_points == 9
    assert grid_crops(Size(100, 40), options)[0].points.tolist() == [[50, 10]]


@pytest.mark.parametrize(
    "values, text",
    [
        ({"points_per_side": 0}, "points_per_side 0: expected a number from 1 to 64"),
        ({"points_per_side": 65}, "points_per_side 65: expected a number from 1 to 64"),
        ({"points_per_batch": 257}, "points_per_batch 257: expected a number from 1 to 256"),
        ({"crop_n_layers": 3}, "crop_n_layers: 3 layers; the limit is 2"),
        ({"points_per_side": 64, "crop_n_layers": 1}, "points_per_side: 20,480 points of all"),
        ({"crop_n_points_downscale_factor": 0}, "downscale_factor 0: expected a number"),
        ({"pred_iou_thresh": 1.5}, "pred_iou_thresh 1.5: expected a number from 0 to 1"),
        ({"box_nms_thresh": float("nan")}, "box_nms_thresh nan: expected a number from 0 to 1"),
        ({"mask_threshold": float("inf")}, "mask_threshold inf: expected a finite number"),
        ({"stability_score_offset": -1}, "stability_score_offset -1: expected 0 or more"),
        ({"point_grids": (np.zeros((1, 2)),), "crop_n_layers": 1}, "1 grids; expected one for"),
        ({"point_grids": (np.full((1, 2), 1.1),)}, r"point_grids\[0\] has a coordinate"),
        ({"point_grids": (np.full((1, 2), np.nan),)}, r"point_grids\[0\] has a coordinate"),
        ({"point_grids": (np.zeros((4097, 2)),)}, r"\[0\]: 4,097 points; the limit is 4,096"),
    ],
)
def test_options_out_of_bounds_are_refused_by_name(values: dict, text: str) -> None:
    with pytest.raises(InvalidInput, match=text) as caught:
        check_options(SweepOptions(**values))
    assert caught.value.field.startswith("options.")
