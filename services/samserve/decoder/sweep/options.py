"""What a sweep may be told, and within which bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from samserve.core.arrays import Floats
from samserve.core.errors import InvalidInput
from samserve.core.limits import (
    MAX_CROP_LAYERS,
    MAX_GRID_POINTS,
    MAX_POINTS_PER_BATCH,
    MAX_POINTS_PER_SIDE,
    MAX_SWEEP_POINTS,
    check_count,
)


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """The parameters of SAM's SamAutomaticMaskGenerator and of SAM 2's, with SAM's defaults.

    Attributes:
        points_per_side: Points of the grid along each side.
        points_per_batch: Points between two reports of progress.
        pred_iou_thresh: Masks with a predicted IoU up to this are dropped; 0 keeps all.
        stability_score_thresh: Masks with a lower stability score are dropped; 0 keeps all.
        stability_score_offset: Logits between the two cuts of the stability score and the
            threshold.
        mask_threshold: Logits above this are the mask.
        box_nms_thresh: Of two masks of one crop whose boxes overlap more, the better one is kept.
        crop_n_layers: Layers of crops; layer n has 4 to the power of n.
        crop_nms_thresh: Likewise for masks of different crops: the smaller crop's one is kept.
        crop_overlap_ratio: Overlap of the first layer's crops, as a share of the short side.
        crop_n_points_downscale_factor: Each layer's grid has so many times fewer points a side.
        min_mask_region_area: Smaller holes are filled and smaller islands removed, in pixels.
        multimask_output: Whether each point gives three masks instead of one.
        use_m2m: Whether each mask is refined by a second pass.
        point_grids: Grids to use instead of regular ones, one for each layer: [N, 2], (x, y) from
            0 to 1.
    """

    points_per_side: int = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    mask_threshold: float = 0.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    min_mask_region_area: int = 0
    multimask_output: bool = True
    use_m2m: bool = False
    point_grids: tuple[Floats, ...] = ()

    def points_in_layer(self, layer: int) -> int:
        """Return the points of one crop of a layer."""
        if self.point_grids:
            return len(self.point_grids[layer])
        return points_of_side(self, layer) ** 2

    @property
    def total_points(self) -> int:
        """Points of all crops together."""
        return sum(4**layer * self.points_in_layer(layer) for layer in range(self.layers))

    @property
    def layers(self) -> int:
        """Layers, the whole image included."""
        return self.crop_n_layers + 1


SHARES = (  # options from 0 to 1
    "pred_iou_thresh",
    "stability_score_thresh",
    "box_nms_thresh",
    "crop_nms_thresh",
    "crop_overlap_ratio",
)
LOGITS = ("stability_score_offset", "mask_threshold")  # options of any finite size


def points_of_side(options: SweepOptions, layer: int) -> int:
    """Return the points along one side of a regular grid of a layer's crop.

    Source: SAM, build_all_layer_point_grids.
    """
    return int(options.points_per_side / options.crop_n_points_downscale_factor**layer)


def check_options(options: SweepOptions) -> None:
    """Check everything that a caller chooses.

    Raises:
        InvalidInput: A value is out of its bounds; the error names the field.
    """
    for name in SHARES:
        share = getattr(options, name)
        if not 0 <= share <= 1:
            raise _invalid(name, share, "a number from 0 to 1")
    for name in LOGITS:
        if not math.isfinite(getattr(options, name)):
            raise _invalid(name, getattr(options, name), "a finite number")
    if options.stability_score_offset < 0:
        raise _invalid("stability_score_offset", options.stability_score_offset, "0 or more")

    # Layers first: the number of points grows with them.
    check_count(options.crop_n_layers, MAX_CROP_LAYERS, "options.crop_n_layers", "layers")
    _check_range(options, "points_per_batch", MAX_POINTS_PER_BATCH)
    _check_range(options, "crop_n_points_downscale_factor", MAX_POINTS_PER_SIDE)
    if options.point_grids:
        _check_grids(options)
    else:
        _check_range(options, "points_per_side", MAX_POINTS_PER_SIDE)

    field = "options.point_grids" if options.point_grids else "options.points_per_side"
    check_count(options.total_points, MAX_SWEEP_POINTS, field, "points of all crops together")


def _check_range(options: SweepOptions, name: str, most: int) -> None:
    value = getattr(options, name)
    if not 1 <= value <= most:
        raise _invalid(name, value, f"a number from 1 to {most}")


def _check_grids(options: SweepOptions) -> None:
    field = "options.point_grids"
    if len(options.point_grids) != options.layers:
        raise InvalidInput(
            field,
            f"{field}: {len(options.point_grids)} grids; expected one for each layer: "
            f"{options.layers}",
        )

    for index, grid in enumerate(options.point_grids):
        name = f"{field}[{index}]"
        check_count(len(grid), MAX_GRID_POINTS, name, "points")
        if not ((grid >= 0) & (grid <= 1)).all():  # false for NaN as well
            raise InvalidInput(name, f"{name} has a coordinate that is not from 0 to 1")


def _invalid(name: str, value: float, expected: str) -> InvalidInput:
    field = f"options.{name}"
    return InvalidInput(field, f"invalid {field} {value:g}: expected {expected}")
