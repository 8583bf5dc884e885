"""SAM 2's and 2.1's own files: {"model": weights}, of which pictures need all but the video parts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from transformers import PretrainedConfig, Sam2Config

from samserve.export.checkpoints.checkpoint import BadCheckpoint, State, renamed
from samserve.export.checkpoints.meta_sam import count, mask_sizes, prompt_sizes
from samserve.export.checkpoints.names import SAM2_NAMES, SAM2_VIDEO

TRUNK = "image_encoder.trunk"
FRAME, PATCH = 1024, 16
OF_2_1 = "no_obj_embed_spatial"  # a weight that SAM 2.1 added


@dataclass(frozen=True, slots=True)
class Hiera:
    """What of an encoder no shape tells. Source: the configurations published with SAM 2."""

    name: str
    heads: int
    global_blocks: tuple[int, ...]
    windows: tuple[int, ...] = (8, 4, 14, 7)


SIZES = {  # by width and depth
    (96, 12): Hiera("tiny", 1, (5, 7, 9)),
    (96, 16): Hiera("small", 1, (7, 10, 13)),
    (112, 24): Hiera("base-plus", 2, (12, 16, 20)),
    (144, 48): Hiera("large", 2, (23, 33, 43), (8, 4, 16, 8)),
}


def sam2_state(state: State) -> State:
    """Image mode's weights; transformers keeps the four kinds of points in one table."""
    image = {name: tensor for name, tensor in state.items() if not name.startswith(SAM2_VIDEO)}
    kinds = [image.pop(f"sam_prompt_encoder.point_embeddings.{kind}.weight") for kind in range(4)]
    named = renamed(image, SAM2_NAMES)
    named["prompt_encoder.point_embed.weight"] = torch.cat(kinds)
    return named


def sam2_config(state: State) -> PretrainedConfig:
    """Sizes from shapes, and by width and depth from the table. Raises KeyError for a weight that is not there, and
    BadCheckpoint for an encoder of a size that was never published.
    """
    depth = count(state, f"{TRUNK}.blocks.", ".norm1.weight")
    width, _, kernel, _ = state[f"{TRUNK}.patch_embed.proj.weight"].shape
    if (width, depth) not in SIZES:
        known = ", ".join(f"{each.name} {w} x {d}" for (w, d), each in SIZES.items())
        raise BadCheckpoint(
            f"its encoder is {width} wide and {depth} blocks deep; SAM 2's are: {known}"
        )
    hiera = SIZES[width, depth]
    widths = [state[f"{TRUNK}.blocks.{k}.attn.proj.weight"].shape[0] for k in range(depth)]
    starts = [0, *(k for k, (a, b) in enumerate(pairwise(widths), 1) if a != b), depth]
    stages = [widths[start] for start in starts[:-1]]
    backbone = {
        "hidden_size": width,
        "num_attention_heads": hiera.heads,
        "patch_kernel_size": [kernel, kernel],
        "window_positional_embedding_background_size": list(state[f"{TRUNK}.pos_embed"].shape[2:]),
        "blocks_per_stage": [b - a for a, b in pairwise(starts)],
        "embed_dim_per_stage": stages,
        "num_attention_heads_per_stage": [hiera.heads * 2**k for k in range(len(stages))],
        "window_size_per_stage": list(hiera.windows),
        "global_attention_blocks": list(hiera.global_blocks),
    }
    prompt = prompt_sizes(state, "sam_prompt_encoder")
    masks = {"mlp_dim": state["sam_mask_decoder.transformer.layers.0.mlp.layers.0.weight"].shape[0]}
    return Sam2Config(
        vision_config={
            "backbone_config": {"model_type": "sam2_hiera_det_model", **backbone},
            "backbone_channel_list": stages[::-1],
            "fpn_hidden_size": prompt["hidden_size"],
        },
        prompt_encoder_config={"image_size": FRAME, "patch_size": PATCH, **prompt},
        mask_decoder_config=masks | mask_sizes(state, "sam_mask_decoder"),
    )
