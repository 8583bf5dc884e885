"""The stability score of a mask."""

from __future__ import annotations

import numpy as np

from samserve.core.arrays import Floats
from samserve.core.geometry import Frame, Size, fit


def stability_score(logits: Floats, size: Size, frame: Frame, offset: float = 1.0) -> float:
    """Return the IoU of the masks cut at logits +offset and -offset; 0 if both are empty.

    Logits in the frame's padding do not count. Source: SAM, calculate_stability_score.

    Args:
        logits: [L, L], low-res.
        size: Of the source image.
        frame: The model's mask frame.
        offset: In logits.
    """
    inner = fit(size, frame)
    cell = frame.side / logits.shape[0]
    rows = int(np.ceil(inner.height / cell))
    columns = int(np.ceil(inner.width / cell))
    on_image = logits[:rows, :columns]

    certain = np.count_nonzero(on_image > offset)
    possible = np.count_nonzero(on_image > -offset)
    return certain / possible if possible else 0.0
