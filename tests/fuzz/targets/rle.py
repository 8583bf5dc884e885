"""Run lengths of a mask come back as the mask; any bytes are a mask of a size, or are refused."""

from __future__ import annotations

import numpy as np
from fuzz.values import read_mask
from samserve.core import runs
from samserve.core.rle import decode_rle, encode_rle

MOST_BYTES = 204


def check(data: bytes) -> None:
    if len(data) < 3:
        return
    height, width = 1 + data[0] % 40, 1 + data[1] % 40
    if data[2] % 2:
        try:
            mask = decode_rle(data[3:], height, width)
        except ValueError:
            return
        assert mask.shape == (height, width)
        return

    mask = read_mask(data[3:], height, width)
    its_runs = runs.runs_of(mask)
    assert np.array_equal(decode_rle(encode_rle(its_runs), height, width), mask)
    assert np.array_equal(runs.dense(its_runs), mask)
    assert runs.area(its_runs) == mask.sum()

    box = runs.box(its_runs)
    assert not mask.any() or mask[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)].sum() == (
        mask.sum()
    )
