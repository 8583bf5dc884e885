"""Meta's package `segment_anything` with nano's weights.

The package needs four functions of torchvision, which must be built for the very torch beside it.
They are given here instead.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from samserve.bundles.bundle import Bundle
from samserve.decoder.sweep.boxes import suppress
from samserve.training.encoder import PIXEL_MEAN, PIXEL_STD, NanoEncoder
from samserve.training.network import graph_weights

RENAMES = (  # pattern in transformers' names, and the text in Meta's
    (r"prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (
        r"prompt_encoder\.shared_embedding\.positional_embedding",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    ),
    (r"mask_embed\.conv1", "mask_downscaling.0"),
    (r"mask_embed\.layer_norm1", "mask_downscaling.1"),
    (r"mask_embed\.conv2", "mask_downscaling.3"),
    (r"mask_embed\.layer_norm2", "mask_downscaling.4"),
    (r"mask_embed\.conv3", "mask_downscaling.6"),
    (r"upscale_conv1", "output_upscaling.0"),
    (r"upscale_layer_norm", "output_upscaling.1"),
    (r"upscale_conv2", "output_upscaling.3"),
    (r"layer_norm(\d|_final)", r"norm\1"),
    (r"(mlps\.\d|head)\.layers\.0\.", r"\1.layers.1."),
    (r"(mlps\.\d|head)\.proj_in\.", r"\1.layers.0."),
    (r"(mlps\.\d|head)\.proj_out\.", r"\1.layers.2."),
)


class Encoder(torch.nn.Module):
    """nano's encoder where `Sam` expects SAM's."""

    img_size = 1024

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.network = NanoEncoder().eval()
        weights = graph_weights(bundle.encoder).items()
        prefix = "vision_encoder."
        self.network.load_state_dict(
            {name.removeprefix(prefix): each for name, each in weights if name.startswith(prefix)}
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(image)


def build(bundle: Bundle) -> torch.nn.Module:
    """Return Meta's `Sam` with nano's weights."""
    with torchvision_s_functions():
        from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    prompt_encoder = PromptEncoder(
        embed_dim=256,
        image_embedding_size=(64, 64),
        input_image_size=(1024, 1024),
        mask_in_chans=16,
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    mask_decoder = MaskDecoder(transformer_dim=256, transformer=transformer)
    sam = Sam(
        Encoder(bundle),
        prompt_encoder,
        mask_decoder,
        pixel_mean=np.ravel(PIXEL_MEAN).tolist(),
        pixel_std=np.ravel(PIXEL_STD).tolist(),
    )

    weights = {rename(name): each for name, each in graph_weights(bundle.decoder).items()}
    missing, unexpected = sam.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name.startswith("image_encoder.") for name in missing), missing
    return sam.eval()


def rename(name: str) -> str:
    """Return Meta's name of a decoder's weight."""
    for pattern, text in RENAMES:
        name = re.sub(pattern, text, name)
    return name


@contextmanager
def torchvision_s_functions() -> Iterator[None]:
    """While the package is imported: the functions that it imports from torchvision."""
    boxes, functional = ModuleType("boxes"), ModuleType("functional")
    boxes.batched_nms = batched_nms
    boxes.box_area = lambda each: (each[:, 2] - each[:, 0]) * (each[:, 3] - each[:, 1])
    functional.to_pil_image = Image.fromarray
    functional.resize = lambda image, size: image.resize(size[::-1], Image.Resampling.BILINEAR)
    given = {
        "torchvision": ModuleType("torchvision"),
        "torchvision.ops": ModuleType("ops"),
        "torchvision.ops.boxes": boxes,
        "torchvision.transforms": ModuleType("transforms"),
        "torchvision.transforms.functional": functional,
    }
    before = {name: sys.modules.get(name) for name in given}
    sys.modules.update(given)
    try:
        yield
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


def batched_nms(
    boxes: torch.Tensor, scores: torch.Tensor, _: Any, iou_threshold: float
) -> torch.Tensor:
    """Return the numbers of the boxes that no better one overlaps."""
    exclusive = boxes.numpy() + np.array([0, 0, 1, 1])
    kept = suppress(exclusive, scores.numpy(), iou_threshold) if len(boxes) else []
    return torch.tensor(np.array(kept, np.int64))
