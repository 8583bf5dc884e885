"""A sweep's prompts are decoded in short pieces, to the same masks."""

import numpy as np
import pytest
from samserve.bundles.bundle import load_bundle
from samserve.bundles.names import SHIPPED
from samserve.core.embedding import Embedding
from samserve.core.geometry import Size
from samserve.decoder.prompt import Prompt
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.prepared_image import ReadyImage
from samserve.decoder.sam.threads import PAUSED_SPANS, PausingShare, Threads

CLICK = Prompt(np.array([[90, 60]], np.float32), np.ones(1, np.float32), None, None, True)


@pytest.fixture(scope="module")
def decoder() -> MaskDecoder:
    return MaskDecoder(load_bundle(SHIPPED / "nano"), Threads(1))


@pytest.fixture(scope="module")
def image(decoder: MaskDecoder) -> ReadyImage:
    noise = np.random.default_rng(0).normal(size=(256, 64, 64)).astype(np.float16)
    version = decoder.bundle.model_version
    return decoder.prepare(Embedding(version, Size(320, 200), {"embedding": noise}))


def test_the_masks_are_the_same_and_each_pass_pauses(
    decoder: MaskDecoder, image: ReadyImage
) -> None:
    pauses = []
    patient = decoder.decode_patiently(image, CLICK, lambda: pauses.append(1), -np.inf)
    (alone,) = decoder.decode(image, [CLICK])
    assert len(pauses) == 4 * PAUSED_SPANS
    assert np.array_equal(patient.order, alone.order)
    assert np.allclose(patient.predicted_iou, alone.predicted_iou, atol=1e-4)
    assert np.allclose(patient.logits, alone.logits, atol=0.05)


def test_masks_of_a_point_that_promises_none_are_not_computed(
    decoder: MaskDecoder, image: ReadyImage
) -> None:
    (alone,) = decoder.decode(image, [CLICK])
    best = float(alone.predicted_iou.max())
    pauses = []
    none = decoder.decode_patiently(image, CLICK, lambda: pauses.append(1), best + 0.01)
    assert len(none.logits) == len(none.predicted_iou) == len(none.order) == 0
    assert len(pauses) == 3 * PAUSED_SPANS
    assert len(decoder.decode_patiently(image, CLICK, lambda: None, best - 0.01).logits) == 3


def test_spans_are_done_in_order_with_a_pause_before_each() -> None:
    events: list[object] = []
    share = PausingShare(1024, lambda: events.append("pause"))
    spans = share.map_spans(lambda first, last: (first, last))
    assert spans == [(first, first + 128) for first in range(0, 1024, 128)]
    assert events == ["pause"] * PAUSED_SPANS
