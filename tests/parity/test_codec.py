"""Masks from packed embeddings against those from fp32 ones; loadtest/bench/codec.py has more."""

import io
from itertools import chain

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from samserve.bundles.bundle import Bundle
from samserve.codec.packed import pack, unpack
from samserve.core.embedding import Embedding
from samserve.core.image import frame_image
from samserve.decoder.sam.kernel_decoder import KernelDecoder
from samserve.infra.settings import EmbeddingSettings
from samserve.training import scenes
from samserve.training.coins import coins
from samserve.training.scenes import VALIDATION_SEED

from loadtest.bench.agreement import SIDE, PlainEncoder, overlaps, sample


@pytest.mark.parametrize("source", ["coins", "scene"])
def test_packing_changes_no_mask_that_is_shown(bundle: Bundle, source: str) -> None:
    scene = scenes.draw(VALIDATION_SEED)
    pixels, labels = coins() if source == "coins" else (scene.image, scene.labels)
    photo = io.BytesIO()
    Image.fromarray(pixels).save(photo, "PNG")
    image = frame_image(photo.getvalue(), bundle.frame, EmbeddingSettings().image_limits)
    weights = {
        name: tensor.astype(np.float32) for name, tensor in load_file(bundle.weights).items()
    }
    decoder = KernelDecoder(weights, SIDE, 16 * SIDE)
    wanted = sample(decoder, labels, PlainEncoder(bundle).embed(image), seed=0, count=20)
    packed = pack(Embedding("m", image.size, {"embedding": wanted.embedding.astype(np.float16)}))
    ious = overlaps(decoder, wanted, unpack(packed).tensors["embedding"])
    shown = [each[first] for each, first in zip(ious, wanted.first, strict=True)]
    assert len(packed) <= 0.8 * 2**20
    assert np.mean(list(chain.from_iterable(ious))) >= 0.995
    assert min(shown) >= 0.97
