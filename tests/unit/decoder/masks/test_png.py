import io

import numpy as np
import pytest
from PIL import Image
from samserve.core.runs import runs_of
from samserve.decoder.masks.png import encode_png


@pytest.mark.parametrize("shape", [(1, 1), (33, 57), (8, 64)])
def test_a_png_holds_the_mask_in_one_bit_a_pixel(shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(shape) > 0.5
    image = Image.open(io.BytesIO(encode_png(runs_of(mask))))
    assert image.mode == "1"
    assert np.array_equal(np.asarray(image), mask)
