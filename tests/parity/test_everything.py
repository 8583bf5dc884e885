"""Segmenting everything finds what SAM's generator finds in PyTorch, with the same weights."""

from __future__ import annotations

import asyncio

import pytest
from samserve.bundles.bundle import load_bundle
from samserve.bundles.names import SHIPPED
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.threads import Threads
from samserve.decoder.sweep.options import SweepOptions

from loadtest.bench.decoder import embed
from loadtest.bench.everything import Ours, Peer, coins, matched


@pytest.mark.parametrize(
    "megapixels, iou, stability", [(0.12, 0.6, 0.8), (1, 0.7, 0.9)], ids=["small", "large"]
)
def test_masks_are_those_of_sams_generator(megapixels: float, iou: float, stability: float) -> None:
    bundle = load_bundle(SHIPPED / "nano")
    embedding = embed(bundle, coins(megapixels))
    options = SweepOptions(points_per_side=7, pred_iou_thresh=iou, stability_score_thresh=stability)
    ours = Ours(MaskDecoder(bundle, Threads(1)), embedding)
    found = asyncio.run(ours.generate(options))
    expected = Peer(bundle, embedding, options).generate()
    assert found
    assert matched(found, expected) >= 0.98
    assert matched(expected, found) >= 0.98
