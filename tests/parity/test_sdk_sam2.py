"""The stand-in for SAM 2's predictor against transformers' Sam2Model with random weights."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch
from contract.conftest import (  # noqa: F401
    SIZE,
    Service,
    heads,
    limits,
    patience,
    service,
    streams,
)
from contract.test_sdk import BOXES, COORDS, LABELS, PIXELS, model  # noqa: F401
from parity import random_models
from parity.test_sam2 import reference as answer_of
from samserve.core.embedding import Embedding
from samserve.decoder.prompt import Prompt
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.threads import Threads
from samserve.sdk import RemoteSam, RemoteSam2Predictor
from transformers import Sam2Model

SHARE = 1e-3  # of the largest logit; low-res logits are sent as fp16
NO_POINTS, NO_LABELS = np.zeros((0, 2), np.float32), np.zeros(0, np.float32)


@pytest.fixture(scope="module")
def network() -> Sam2Model:
    return random_models.sam2(0)


@pytest.fixture(scope="module")
def decoder(network: Sam2Model, tmp_path_factory: pytest.TempPathFactory) -> MaskDecoder:
    bundle = random_models.bundle_of(network, "sam2", tmp_path_factory.mktemp("sam2"))
    return MaskDecoder(bundle, Threads(2))


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    return random_models.image_of("sam2", 0)


def click(multimask: bool, logits: np.ndarray | None = None) -> Prompt:
    return Prompt(COORDS.astype(np.float32), LABELS.astype(np.float32), None, logits, multimask)


async def test_answers_are_those_of_sam_2(
    model: RemoteSam,  # noqa: F811
    network: Sam2Model,
    tensors: dict[str, np.ndarray],
) -> None:
    image = Embedding("v", SIZE, tensors)
    predictor = await asyncio.to_thread(RemoteSam2Predictor, model)
    assert model.served.stretch
    await asyncio.to_thread(predictor.set_image, PIXELS)

    async def check(prompts: list[Prompt], **given: object) -> np.ndarray:
        """Compare an answer with those of prompts, one each; return its low-res logits."""
        masks, ious, low_res = await asyncio.to_thread(lambda: predictor.predict(**given))
        scaled, _, _ = await asyncio.to_thread(
            lambda: predictor.predict(**given, return_logits=True)
        )
        expected = [answer_of(network, image, prompt) for prompt in prompts]
        logits, wanted = (np.stack(each) for each in zip(*expected, strict=True))
        most = np.abs(logits).max()
        full = torch.nn.functional.interpolate(
            torch.from_numpy(logits), (SIZE.height, SIZE.width), mode="bilinear"
        ).numpy()
        if len(prompts) == 1:
            logits, wanted, full = logits[0], wanted[0], full[0]

        np.testing.assert_allclose(ious, wanted, atol=SHARE)
        np.testing.assert_allclose(low_res, logits.clip(-32, 32), atol=SHARE * most)
        np.testing.assert_allclose(scaled, full, atol=SHARE * most)
        assert masks.dtype == np.float32
        differ = (masks > 0) != (full > 0)
        assert not (differ & (np.abs(full) > SHARE * most)).any()
        union = (masks > 0) | (full > 0)
        assert 1 - differ.sum() / union.sum() >= 0.99
        return low_res

    clicks = {"point_coords": COORDS, "point_labels": LABELS}
    low_res = await check([click(True)], **clicks)
    half = low_res[0].astype(np.float16).astype(np.float32)
    await check([click(False, half)], **clicks, mask_input=low_res[:1], multimask_output=False)
    boxes = [Prompt(NO_POINTS, NO_LABELS, box, None, True) for box in BOXES.astype(np.float32)]
    await check(boxes, box=BOXES)
