"""SAM. Its original files are a flat dictionary of weights whose shapes give all sizes."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, SamConfig, SamModel

from samserve.core.family import family_named
from samserve.export.families.family import ExportFamily, ReferenceImage
from samserve.export.families.shared import (
    PROMPT_AND_MASK_NAMES,
    Names,
    mask_decoder_sizes,
    prompt_encoder_sizes,
)
from samserve.export.graphs.decoder import DecoderGraph
from samserve.export.graphs.vit import VitEncoder
from samserve.export.weights import BadCheckpoint, State, count_weights, rename_weights

ENCODER = "image_encoder"
HQ_TOKEN = "mask_decoder.hf_token.weight"  # noqa: S105  a weight that only SAM-HQ has

NAMES: Names = (
    (r"^image_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
    (r"^image_encoder\.blocks\.", "vision_encoder.layers."),
    (r"^image_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"^image_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"^image_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"^image_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (r"^image_encoder\.", "vision_encoder."),
    *PROMPT_AND_MASK_NAMES,
)


def is_vit_checkpoint(state: State) -> bool:
    """Whether the weights are SAM's or SAM-HQ's."""
    return f"{ENCODER}.patch_embed.proj.weight" in state


def vit_sizes(state: State) -> dict[str, dict[str, Any]]:
    """Read the sizes of SAM's three parts from its weights' shapes, as transformers names them.

    Raises:
        KeyError: A weight is missing.
        BadCheckpoint: The blocks' shapes contradict each other.
    """
    depth = count_weights(state, f"{ENCODER}.blocks.", ".norm1.weight")
    width, channels, patch, _ = state[f"{ENCODER}.patch_embed.proj.weight"].shape
    grid = state[f"{ENCODER}.pos_embed"].shape[1]

    # A block's relative positions give the side of the square that its attention covers, in cells.
    positions = [state[f"{ENCODER}.blocks.{k}.attn.rel_pos_h"].shape for k in range(depth)]
    sides = [(length + 1) // 2 for length, _ in positions]
    windows = sorted({side for side in sides if side != grid})
    if len(windows) > 1:
        raise BadCheckpoint(f"unsupported encoder: blocks with windows of {windows} cells")

    frequencies = state["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]
    frame = {"image_size": grid * patch, "patch_size": patch}
    vision = {
        **frame,
        "hidden_size": width,
        "num_channels": channels,
        "num_hidden_layers": depth,
        "num_attention_heads": width // positions[0][1],
        "mlp_dim": state[f"{ENCODER}.blocks.0.mlp.lin1.weight"].shape[0],
        "window_size": windows[0] if windows else 0,
        "global_attn_indexes": [k for k, side in enumerate(sides) if side == grid],
        "output_channels": state[f"{ENCODER}.neck.0.weight"].shape[0],
        "num_pos_feats": frequencies.shape[1],
    }
    return {
        "vision_config": vision,
        "prompt_encoder_config": frame | prompt_encoder_sizes(state, "prompt_encoder"),
        "mask_decoder_config": mask_decoder_sizes(state, "mask_decoder", mlp="lin1"),
    }


def vit_encoder_size(config: PretrainedConfig) -> tuple[int, int]:
    return config.vision_config.hidden_size, config.vision_config.num_hidden_layers


def _detect(state: State) -> str | None:
    return "SAM" if is_vit_checkpoint(state) and HQ_TOKEN not in state else None


def _read_config(state: State) -> PretrainedConfig:
    return SamConfig(**vit_sizes(state))


def _rename(state: State) -> State:
    return rename_weights(state, NAMES)


def _reference_image(_model: PreTrainedModel, features: Tensor) -> ReferenceImage:
    return ReferenceImage({"embedding": features}, {"image_embeddings": features})


SAM = ExportFamily(
    core=family_named("sam"),
    title="SAM",
    model=SamModel,
    config=SamConfig,
    model_types=("sam",),
    detect=_detect,
    read_config=_read_config,
    rename=_rename,
    encoder=VitEncoder,
    decoder=DecoderGraph,
    reference_image=_reference_image,
    encoder_size=vit_encoder_size,
)
