"""A decoder's weights by name, and whether the kernel is made for them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samserve.core.geometry import Frame
from samserve.decoder.sam.family import Family

Tensors = Mapping[str, NDArray[Any]]

TRANSFORMER = "mask_decoder.transformer"
SHAPES = {  # of weights that tell whether the kernel fits a decoder
    "mask_decoder.mask_tokens.weight": (4, 256),
    "mask_decoder.iou_prediction_head.layers.0.weight": (256, 256),
    "mask_decoder.output_hypernetworks_mlps.3.layers.0.weight": (256, 256),
    "mask_decoder.output_hypernetworks_mlps.3.proj_out.weight": (32, 256),
    "mask_decoder.upscale_conv1.weight": (256, 64, 2, 2),
    "mask_decoder.upscale_conv2.weight": (64, 32, 2, 2),
    f"{TRANSFORMER}.layers.1.self_attn.q_proj.weight": (256, 256),
    f"{TRANSFORMER}.layers.1.cross_attn_token_to_image.q_proj.weight": (128, 256),
    f"{TRANSFORMER}.layers.1.mlp.lin1.weight": (2048, 256),
    "prompt_encoder.mask_embed.conv3.weight": (256, 16, 1, 1),
}
PIXELS = 16  # of the frame, to a cell's side
ROW = 8  # sides of whole multiples of it have whole tiles of cells
RENAMED = (
    (".o_proj.", ".out_proj."),
    (".mlp.proj_in.", ".mlp.lin1."),
    (".mlp.proj_out.", ".mlp.lin2."),
)


def rename_sam2_weights(tensors: Tensors) -> dict[str, NDArray[Any]]:
    """SAM 2's weights under the names that SAM's have; SAM's own as they are."""
    named = {}
    for name, tensor in tensors.items():
        for theirs, ours in RENAMED:
            name = name.replace(theirs, ours)
        named[name] = tensor
    kinds = named.pop("prompt_encoder.point_embed.weight", np.empty((0, 0)))
    return named | {
        f"prompt_encoder.point_embed.{kind}.weight": row[None] for kind, row in enumerate(kinds)
    }


def supports(
    tensors: Tensors, family: Family, embedding: Mapping[str, tuple[int, ...]], frame: Frame
) -> bool:
    """Whether a Transformer computes the decoder that has these weights, on an embedding of these shapes."""
    if not family.tokens or embedding != _maps(family, frame.side // PIXELS):
        return False
    named = rename_sam2_weights(tensors)
    deeper = f"{TRANSFORMER}.layers.2.mlp.lin1.weight" in named
    return not deeper and all(
        name in named and named[name].shape == shape for name, shape in SHAPES.items()
    )


def _maps(family: Family, side: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a family's embedding, of whole tiles."""
    whole = side - side % ROW
    finer = {
        name: (128 >> step, whole << step, whole << step)
        for step, name in enumerate(family.fine, 1)
    }
    return {"embedding": (256, whole, whole), **finer}
