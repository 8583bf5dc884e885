"""Values that are made from a fuzzer's bytes, and the small model that targets decode with."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
from samserve.bundles.bundle import Bundle, load_bundle
from samserve.bundles.names import SHIPPED
from samserve.core.embedding import Embedding, EmbeddingContract, SizeLimits
from samserve.core.geometry import Frame, Size
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.prepared_image import ReadyImage
from samserve.decoder.sam.threads import Threads

SIDE = 8  # of the small model's embedding: one tile of the kernel
SHAPE = (256, SIDE, SIDE)
LOW_RES = 4 * SIDE
LIMITS = SizeLimits(max_pixels=250_000, max_aspect=64)
CONTRACT = EmbeddingContract({"embedding": SHAPE}, LIMITS)


def read_mask(data: bytes, height: int, width: int) -> np.ndarray:
    """Return a mask, bool [height, width], from bits that repeat."""
    bits = np.unpackbits(np.frombuffer(data or b"\0", np.uint8)).astype(bool)
    return np.resize(bits, (height, width))


@cache
def small_bundle() -> Bundle:
    """Return nano as a model of a frame of 128 pixels, which decodes in a millisecond."""
    frame = Frame(16 * SIDE)
    return replace(
        load_bundle(SHIPPED / "nano"),
        frame=frame,
        mask_frame=frame,
        low_res=LOW_RES,
        embedding={"embedding": SHAPE},
    )


@cache
def small_decoder() -> MaskDecoder:
    return MaskDecoder(small_bundle(), Threads(1))


@cache
def small_image(width: int = 320, height: int = 200) -> ReadyImage:
    noise = np.random.default_rng(0).normal(size=SHAPE).astype(np.float16)
    embedding = Embedding(small_bundle().model_version, Size(width, height), {"embedding": noise})
    return small_decoder().prepare(embedding)
