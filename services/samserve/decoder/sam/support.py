"""The names and shapes of a decoder's weights, and whether the kernel supports them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from samserve.core.arrays import Array
from samserve.core.family import Family, Shape

Tensors = Mapping[str, Array]  # by transformers' names

CHANNELS = 256  # of the embedding's coarse map
LOGITS_PER_CELL = 4  # along each side
CELL_MULTIPLE = 8  # an embedding whose side is a multiple of it consists of whole tiles

TRANSFORMER = "mask_decoder.transformer"
SHAPES = {  # of the weights by which decoders differ
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
THIRD_LAYER = f"{TRANSFORMER}.layers.2.mlp.lin1.weight"

SAM2_RENAMES = (  # part of a name in transformers' SAM 2, and in its SAM
    (".o_proj.", ".out_proj."),
    (".mlp.proj_in.", ".mlp.lin1."),
    (".mlp.proj_out.", ".mlp.lin2."),
)


def rename_sam2_weights(tensors: Tensors) -> dict[str, Array]:
    """Give SAM 2's weights the names that SAM's have; SAM's own weights stay as they are."""
    renamed = {}
    for name, tensor in tensors.items():
        for sam2_part, sam_part in SAM2_RENAMES:
            name = name.replace(sam2_part, sam_part)
        renamed[name] = tensor

    # SAM 2 has one array for the four kinds of points, SAM has four arrays.
    kinds = renamed.pop("prompt_encoder.point_embed.weight", np.empty((0, 0)))
    for kind, row in enumerate(kinds):
        renamed[f"prompt_encoder.point_embed.{kind}.weight"] = row[None]

    return renamed


def supports(
    tensors: Tensors, family: Family, embedding: Mapping[str, Shape], low_res: int
) -> bool:
    """Return whether `KernelDecoder` computes the decoder with these weights.

    Args:
        tensors: The decoder's weights.
        family: Of the model.
        embedding: Shapes of the embedding's tensors by name.
        low_res: Side of the low-res logits.
    """
    side = low_res // LOGITS_PER_CELL
    whole_tiles = side - side % CELL_MULTIPLE
    if not family.token_weights or embedding != family.embedding_shapes(CHANNELS, whole_tiles):
        return False

    named = rename_sam2_weights(tensors)
    if THIRD_LAYER in named:
        return False

    return all(name in named and named[name].shape == shape for name, shape in SHAPES.items())
