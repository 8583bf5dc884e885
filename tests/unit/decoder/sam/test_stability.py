import numpy as np
from samserve.core.geometry import Frame, Size
from samserve.decoder.sam.stability import stability_score

FRAME = Frame(1024)


def test_stability_is_one_for_a_sharp_mask_and_less_for_a_soft_one() -> None:
    size = Size(1024, 512)
    sharp = np.full((256, 256), -9, np.float32)
    sharp[:64, :64] = 9
    assert stability_score(sharp, size, FRAME) == 1
    soft = sharp.copy()
    soft[:64, 64:128] = 0
    assert stability_score(soft, size, FRAME) == 0.5
    below = sharp.copy()
    below[200:] = 0  # in the padding, which is not the image
    assert stability_score(below, size, FRAME) == 1
    assert stability_score(np.full((256, 256), -9, np.float32), size, FRAME) == 0
