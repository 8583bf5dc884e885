"""The coins photo of scikit-image, with a truth made by threshold. nano never trains on it."""

from __future__ import annotations

import numpy as np
import skimage.data
from numpy.typing import NDArray
from scipy import ndimage
from skimage import filters, measure, segmentation
from skimage.morphology import closing, footprint_rectangle, remove_small_objects

MIN_AREA = 200  # source pixels; less is dirt on the table


def coins() -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """RGB [303, 384, 3] and labels [303, 384]: 0 is the table, k the k-th coin off the edge."""
    grey = skimage.data.coins()
    bright = closing(grey > filters.threshold_otsu(grey), footprint_rectangle((3, 3)))
    whole = ndimage.binary_fill_holes(segmentation.clear_border(bright))
    labels = measure.label(remove_small_objects(whole, max_size=MIN_AREA))
    return np.repeat(grey[..., None], 3, 2), labels.astype(np.int32)
