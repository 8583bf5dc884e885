"""SAM's and SAM-HQ's own files: a flat dictionary of weights, whose shapes tell all sizes."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig, SamConfig, SamHQConfig

from samserve.export.checkpoints.checkpoint import SAM_HQ, BadCheckpoint, State, renamed
from samserve.export.checkpoints.names import SAM_NAMES

ENCODER = "image_encoder"
HQ_TOKEN = "mask_decoder.hf_token.weight"  # noqa: S105  a weight's name


def sam_state(state: State) -> State:
    return renamed(state, SAM_NAMES)


def sam_config(state: State, family: str) -> PretrainedConfig:
    """Sizes from the shapes of SAM's own weights, of any size. Raises KeyError for a weight that is not there, and
    BadCheckpoint where shapes contradict each other.
    """
    depth = count(state, f"{ENCODER}.blocks.", ".norm1.weight")
    width, channels, patch, _ = state[f"{ENCODER}.patch_embed.proj.weight"].shape
    grid = state[f"{ENCODER}.pos_embed"].shape[1]
    lengths = [state[f"{ENCODER}.blocks.{k}.attn.rel_pos_h"].shape for k in range(depth)]
    reach = [
        (length + 1) // 2 for length, _ in lengths
    ]  # cells that a block's attention sees, in each direction
    windows = sorted({cells for cells in reach if cells != grid})
    if len(windows) > 1:
        raise BadCheckpoint(
            f"the blocks' windows should be of one size, but they are {windows} cells wide"
        )
    vision = {
        "hidden_size": width,
        "num_channels": channels,
        "num_hidden_layers": depth,
        "num_attention_heads": width // lengths[0][1],
        "mlp_dim": state[f"{ENCODER}.blocks.0.mlp.lin1.weight"].shape[0],
        "image_size": grid * patch,
        "patch_size": patch,
        "window_size": windows[0] if windows else 0,
        "global_attn_indexes": [k for k, cells in enumerate(reach) if cells == grid],
        "output_channels": state[f"{ENCODER}.neck.0.weight"].shape[0],
        "num_pos_feats": state["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"].shape[
            1
        ],
    }
    prompt = {
        "image_size": grid * patch,
        "patch_size": patch,
        **prompt_sizes(state, "prompt_encoder"),
    }
    masks = {"mlp_dim": state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0]}
    masks |= mask_sizes(state, "mask_decoder")
    if family == SAM_HQ:
        masks["vit_dim"] = width
        return SamHQConfig(
            vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=masks
        )
    return SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=masks)


def prompt_sizes(state: State, part: str) -> dict[str, Any]:
    """Sizes of SAM's or SAM 2's prompt encoder."""
    return {
        "hidden_size": state[f"{part}.no_mask_embed.weight"].shape[1],
        "mask_input_channels": state[f"{part}.mask_downscaling.3.weight"].shape[0],
    }


def mask_sizes(state: State, part: str) -> dict[str, Any]:
    """Sizes of SAM's or SAM 2's mask decoder, all but its MLP's; its heads are always eight."""
    inner, width = state[f"{part}.transformer.final_attn_token_to_image.q_proj.weight"].shape
    return {
        "hidden_size": width,
        "attention_downsample_rate": width // inner,
        "num_hidden_layers": count(state, f"{part}.transformer.layers.", ".norm1.weight"),
        "num_multimask_outputs": state[f"{part}.mask_tokens.weight"].shape[0] - 1,
        "iou_head_hidden_dim": state[f"{part}.iou_prediction_head.layers.0.weight"].shape[0],
    }


def count(state: State, start: str, end: str) -> int:
    """How many numbered parts there are."""
    return sum(name.startswith(start) and name.endswith(end) for name in state)
