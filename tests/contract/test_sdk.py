"""The stand-ins for Meta's classes, on the real decoder of nano and an embedding of noise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
from contract.conftest import SIZE, Path, Service
from PIL import Image
from samserve.client import Client
from samserve.core.errors import InvalidInput, ModelNotFound
from samserve.sdk import (
    RemoteSam,
    RemoteSam2AutomaticMaskGenerator,
    RemoteSam2Predictor,
    RemoteSamAutomaticMaskGenerator,
    RemoteSamPredictor,
    sam_model_registry,
)
from samserve.sdk.model import as_model, name_of_hub_id

PIXELS = np.zeros((SIZE.height, SIZE.width, 3), np.uint8)
COORDS, LABELS = np.array([[100, 90], [200, 40]]), np.array([1, 0])
BOXES = np.array([[20, 20, 100, 90], [50, 60, 300, 190], [0, 0, 90, 90]])
LOW = {"pred_iou_thresh": 0.05, "stability_score_thresh": 0.05}
FULL = (SIZE.height, SIZE.width)


@pytest.fixture
async def model(service: Service, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RemoteSam]:
    """Embed by a click, since there is no embedding service."""
    monkeypatch.setattr(Client, "embed", lambda self, image: self.segment(image, [(1, 1)]))
    with Client(service.address, service.address) as client:
        yield RemoteSam(client)


def test_a_model_is_named_in_several_ways() -> None:
    with Client(model="nano") as client:
        assert as_model(client).client is client
    assert as_model("nano").client.model == "nano"
    assert as_model(None).client.model == ""
    assert sam_model_registry["vit_h"](checkpoint="sam_vit_h.pth").client.model == "sam-vit-h"
    assert name_of_hub_id("facebook/sam2.1-hiera-base-plus") == "sam2.1-base-plus"
    with pytest.raises(TypeError, match="RemoteSam"):
        as_model(object())  # type: ignore[arg-type]


async def test_an_unknown_model_is_named_at_once(model: RemoteSam) -> None:
    unknown = RemoteSam(model.client, model="sam-vit-h")
    with pytest.raises(ModelNotFound, match="available: nano"):
        await asyncio.to_thread(RemoteSamPredictor, unknown)


async def test_sam_2_s_predictor_has_sam_2_s_shapes_and_types(model: RemoteSam) -> None:
    await asyncio.to_thread(use_sam2_predictor, model)


def use_sam2_predictor(model: RemoteSam) -> None:
    predictor = RemoteSam2Predictor(model)
    with pytest.raises(RuntimeError, match="An image must be set"):
        predictor.predict(COORDS, LABELS)
    with pytest.raises(NotImplementedError, match="Image format not supported"):
        predictor.set_image("photo.jpg")  # type: ignore[arg-type]

    predictor.set_image(Image.fromarray(PIXELS))
    assert predictor._is_image_set and not predictor._is_batch
    assert predictor._orig_hw == [FULL]
    assert predictor._bb_feat_sizes == [(256, 256), (128, 128), (64, 64)]
    assert predictor.mask_threshold == 0.0

    masks, ious, low_res = predictor.predict(COORDS, LABELS)
    check(masks, ious, low_res, 3)
    assert set(np.unique(masks)) <= {0.0, 1.0}
    one = predictor.predict(COORDS, LABELS, mask_input=low_res[:1], multimask_output=False)
    check(*one, 1)
    check(*predictor.predict(box=BOXES[0]), 3)
    check(*predictor.predict(box=BOXES[:1]), 3)

    # Several prompts at once: one answer each, the same as alone.
    several = predictor.predict(box=BOXES, multimask_output=False)
    check(*several, 3, 1)
    for box, mask in zip(BOXES, several[0], strict=True):
        alone = predictor.predict(box=box, multimask_output=False)
        np.testing.assert_array_equal(alone[0], mask)
    points = predictor.predict(COORDS[:, None], LABELS[:, None], mask_input=low_res[:1])
    check(*points, 2, 3)

    shares = COORDS / [SIZE.width, SIZE.height]
    scaled = predictor.predict(shares, LABELS, normalize_coords=False)
    np.testing.assert_allclose(scaled[0], masks)

    with pytest.raises(AssertionError, match="point_labels must be supplied"):
        predictor.predict(COORDS)
    with pytest.raises(RuntimeError, match=r"box has 3 prompts|point_coords has 1 prompts"):
        predictor.predict(COORDS, LABELS, box=BOXES)
    with pytest.raises(InvalidInput, match="x0 must be less than x1"):
        predictor.predict(box=[100, 90, 20, 20])
    with pytest.raises(InvalidInput, match="outside the image"):
        predictor.predict(np.array([[SIZE.width + 5, 3]]), np.array([1]))
    with pytest.raises(AssertionError, match="batched mode"):
        predictor.predict_batch([COORDS], [LABELS])


def check(masks: np.ndarray, ious: np.ndarray, low_res: np.ndarray, *counts: int) -> None:
    """Check the shapes of SAM 2's answers."""
    assert (masks.shape, masks.dtype) == ((*counts, *FULL), np.float32)
    assert (ious.shape, ious.dtype) == (counts, np.float32)
    assert (low_res.shape, low_res.dtype) == ((*counts, 256, 256), np.float32)
    assert np.abs(low_res).max() <= 32


async def test_sam_2_s_predictor_takes_several_images(model: RemoteSam) -> None:
    def use() -> None:
        predictor = RemoteSam2Predictor(model)
        predictor.set_image_batch([PIXELS, PIXELS])
        masks, ious, low_res = predictor.predict_batch(
            [COORDS, COORDS[:1]], [LABELS, LABELS[:1]], multimask_output=False
        )
        assert len(masks) == len(ious) == len(low_res) == 2
        for answer in zip(masks, ious, low_res, strict=True):
            check(*answer, 1)
        predictor.reset_predictor()
        assert not predictor._is_image_set and predictor._features is None

    await asyncio.to_thread(use)


async def test_sam_2_s_features_are_tensors(path: Path) -> None:
    pytest.importorskip("torch")

    def use() -> None:
        with Client(path.decoder, path.embedding) as client:
            predictor = RemoteSam2Predictor(client)
            with pytest.raises(RuntimeError, match="to generate an embedding"):
                predictor.get_image_embedding()
            predictor.set_image_batch([PIXELS, PIXELS + 1])
            features = predictor._features
        assert features["image_embed"].shape == (2, 256, 64, 64)
        assert features["image_embed"].dtype.is_floating_point
        assert features["high_res_feats"] == []  # nano has none

    await asyncio.to_thread(use)


@pytest.mark.parametrize("predict", [RemoteSamPredictor, RemoteSam2Predictor])
async def test_logits_cut_at_the_threshold_are_the_masks(
    model: RemoteSam, predict: Callable[[RemoteSam], Any]
) -> None:
    def use() -> None:
        predictor = predict(model)
        predictor.set_image(PIXELS)
        masks, _, _ = predictor.predict(COORDS, LABELS)
        logits, _, _ = predictor.predict(COORDS, LABELS, return_logits=True)
        assert logits.dtype == np.float32
        differ = (logits > 0) != masks.astype(bool)
        assert not (differ & (np.abs(logits) > 0.05)).any()

        # Another threshold cuts the same logits.
        predictor.mask_threshold = predictor.model.mask_threshold = 1.5
        higher, _, _ = predictor.predict(COORDS, LABELS)
        np.testing.assert_array_equal(higher.astype(bool), logits > 1.5)

    await asyncio.to_thread(use)


async def test_small_regions_are_filled_and_removed(model: RemoteSam) -> None:
    def use() -> None:
        plain = RemoteSam2Predictor(model)
        clean = RemoteSam2Predictor(model, max_hole_area=50.0, max_sprinkle_area=50.0)
        for predictor in (plain, clean):
            predictor.set_image(PIXELS)
        before, after = plain.predict(COORDS, LABELS)[0], clean.predict(COORDS, LABELS)[0]
        assert edges(after) < edges(before)

    await asyncio.to_thread(use)


def edges(masks: np.ndarray) -> int:
    return int(np.abs(np.diff(masks, axis=-1)).sum())


async def test_masks_are_in_the_decoder_s_order(model: RemoteSam) -> None:
    def use() -> None:
        predictor = RemoteSamPredictor(model)
        predictor.set_image(PIXELS)
        masks, ious, _ = predictor.predict(COORDS, LABELS)
        answer = model.client.segment(
            predictor._image._data,  # type: ignore[union-attr]
            [(100, 90, 1), (200, 40, 0)],
        )
        for mask in answer.masks:
            np.testing.assert_array_equal(masks[mask.candidate], mask.array())
            assert ious[mask.candidate] == np.float32(mask.predicted_iou)

    await asyncio.to_thread(use)


async def test_sam_s_predictor_refuses_other_shapes(model: RemoteSam) -> None:
    def use() -> None:
        predictor = RemoteSamPredictor(model)
        assert not hasattr(predictor, "original_size")
        predictor.set_image(PIXELS)
        with pytest.raises(RuntimeError, match=r"box has the shape \[12\]; expected \[4\]"):
            predictor.predict(box=BOXES)
        with pytest.raises(RuntimeError, match=r"point_labels has the shape \[1\]; expected \[2\]"):
            predictor.predict(COORDS, LABELS[:1])
        with pytest.raises(InvalidInput, match="label 2"):
            predictor.predict(COORDS, np.array([1, 2]))

    await asyncio.to_thread(use)


async def test_a_box_is_cut_off_at_the_image_s_edges(model: RemoteSam) -> None:
    def use() -> None:
        predictor = RemoteSamPredictor(model)
        predictor.set_image(PIXELS)
        beyond = predictor.predict(box=np.array([-9, -9, 90, 999]))
        within = predictor.predict(box=np.array([0, 0, 90, SIZE.height]))
        np.testing.assert_array_equal(beyond[0], within[0])
        with pytest.raises(InvalidInput, match="outside the image"):
            predictor.predict(box=np.array([-90, -90, -9, -9]))

    await asyncio.to_thread(use)


async def test_sam_2_s_generator_returns_records_in_three_modes(model: RemoteSam) -> None:
    def use() -> None:
        options = {"points_per_side": 3, **LOW}
        masks = RemoteSam2AutomaticMaskGenerator(model, **options).generate(PIXELS)
        coded = RemoteSam2AutomaticMaskGenerator(model, output_mode="coco_rle", **options)
        assert [record["area"] for record in coded.generate(PIXELS)] == [
            record["segmentation"].sum() for record in masks
        ]
        once = RemoteSam2AutomaticMaskGenerator(model, multimask_output=False, **options)
        assert len(once.generate(PIXELS)) <= 9
        refined = RemoteSam2AutomaticMaskGenerator(model, use_m2m=True, **options)
        refined.output_mode = "uncompressed_rle"
        (record, *_) = refined.generate(PIXELS)
        assert sum(record["segmentation"]["counts"]) == SIZE.pixels

        higher = RemoteSam2AutomaticMaskGenerator(model, mask_threshold=1.0, **options)
        assert higher._options().mask_threshold == 1.0
        with pytest.raises(InvalidInput, match="crop_n_layers"):
            RemoteSamAutomaticMaskGenerator(model, crop_n_layers=9).generate(PIXELS)

    await asyncio.to_thread(use)


async def test_masks_over_the_limit_of_an_answer_are_warned_of(
    model: RemoteSam, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = Client.generate_masks
    monkeypatch.setattr(
        Client, "generate_masks", lambda *given, **named: generate(*given, **named, max_masks=1)
    )

    def use() -> None:
        generator = RemoteSamAutomaticMaskGenerator(model, points_per_side=3, **LOW)
        with pytest.warns(UserWarning, match="the best 1 are returned"):
            assert len(generator.generate(PIXELS)) == 1

    await asyncio.to_thread(use)


def test_the_grid_and_the_mode_are_checked_as_meta_s() -> None:
    with pytest.raises(AssertionError, match="Exactly one of"):
        RemoteSamAutomaticMaskGenerator("nano", points_per_side=None)
    with pytest.raises(AssertionError, match="Unknown output_mode png"):
        RemoteSam2AutomaticMaskGenerator("nano", output_mode="png")
