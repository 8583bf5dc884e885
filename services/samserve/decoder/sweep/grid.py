"""Where a sweep asks: crops of the image, and a grid of points in each. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import ceil

import numpy as np

from samserve.core.arrays import Floats
from samserve.core.crop import Crop, whole
from samserve.core.geometry import Size
from samserve.decoder.sweep.options import SweepOptions, points_of_side


@dataclass(frozen=True, slots=True, eq=False)
class GridCrop:
    """A part of the image, and its points.

    Attributes:
        crop: The part; layer 0 is the whole image.
        points: [N, 2], (x, y) in pixels of the crop, row by row.
        layer: Of the crop.
    """

    crop: Crop
    points: Floats
    layer: int


def grid_crops(size: Size, options: SweepOptions) -> list[GridCrop]:
    """Return all crops of an image, the whole image first."""
    return [
        GridCrop(crop, _grid(options, layer) * (crop.size.width, crop.size.height), layer)
        for layer in range(options.layers)
        for crop in layer_crops(size, layer, options.crop_overlap_ratio)
    ]


def point_grid(points_per_side: int) -> Floats:
    """Return the centres of n x n equal cells, [n * n, 2], (x, y) from 0 to 1, row by row.

    Source: SAM, build_point_grid.
    """
    centres = (np.arange(points_per_side) + 0.5) / max(points_per_side, 1)
    x, y = np.meshgrid(centres, centres)
    return np.stack([x, y], -1).reshape(-1, 2).astype(np.float32)


def layer_crops(size: Size, layer: int, overlap_ratio: float) -> list[Crop]:
    """Return a layer's crops, column by column: 2^layer a side, overlapping.

    A very small image may have fewer: a crop without pixels is left out, and so is a repeated one.
    Source: SAM, generate_crop_boxes.

    Args:
        size: Of the image.
        layer: 0 is the whole image.
        overlap_ratio: Of the first layer's crops, as a share of the image's short side.
    """
    if layer == 0:
        return [whole(size)]

    side = 2**layer
    overlap = int(overlap_ratio * min(size.width, size.height) * (2 / side))
    width = ceil((overlap * (side - 1) + size.width) / side)
    height = ceil((overlap * (side - 1) + size.height) / side)
    crops = [
        Crop(x0, y0, min(x0 + width, size.width), min(y0 + height, size.height))
        for x0, y0 in product(
            [(width - overlap) * i for i in range(side)],
            [(height - overlap) * i for i in range(side)],
        )
    ]
    return list(dict.fromkeys(crop for crop in crops if crop.is_inside(size)))


def _grid(options: SweepOptions, layer: int) -> Floats:
    if options.point_grids:
        return options.point_grids[layer]
    return point_grid(points_of_side(options, layer))
