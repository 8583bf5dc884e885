"""Names and sizes of the prompt encoder and the mask decoder, which all families share.

Source of the names: the modules of segment-anything, sam2, sam-hq and transformers.
"""

from __future__ import annotations

from typing import Any

from samserve.export.weights import State, count_weights

Names = tuple[tuple[str, str], ...]  # patterns of the authors' names -> transformers' names

PROMPT_AND_MASK_NAMES: Names = (  # applied in this order
    (r"\.pe_layer\.positional_encoding_gaussian_matrix$", ".shared_embedding.positional_embedding"),
    (r"\.point_embeddings\.", ".point_embed."),
    (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
    (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
    (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
    (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
    (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.norm([1-4])\.", r".layer_norm\1."),
    (r"(_head|_mlp|_mlps\.\d+)\.layers\.0\.", r"\1.proj_in."),
    (r"(_head|_mlp|_mlps\.\d+)\.layers\.1\.", r"\1.layers.0."),
    (r"(_head|_mlp|_mlps\.\d+)\.layers\.2\.", r"\1.proj_out."),
)

MLP_AND_ATTENTION_NAMES: Names = (  # of SAM 2 and SAM 3
    (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
    (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
    (r"\.out_proj\.", ".o_proj."),
)


def prompt_encoder_sizes(state: State, part: str) -> dict[str, Any]:
    """Read the sizes of a prompt encoder from its weights' shapes.

    Args:
        state: The authors' weights.
        part: The prefix of the prompt encoder's names.
    """
    return {
        "hidden_size": state[f"{part}.no_mask_embed.weight"].shape[1],
        "mask_input_channels": state[f"{part}.mask_downscaling.3.weight"].shape[0],
    }


def mask_decoder_sizes(state: State, part: str, mlp: str) -> dict[str, Any]:
    """Read the sizes of a mask decoder from its weights' shapes. It always has eight heads.

    Args:
        state: The authors' weights.
        part: The prefix of the mask decoder's names.
        mlp: The name of the first layer of its MLPs.
    """
    inner, width = state[f"{part}.transformer.final_attn_token_to_image.q_proj.weight"].shape
    return {
        "hidden_size": width,
        "mlp_dim": state[f"{part}.transformer.layers.0.mlp.{mlp}.weight"].shape[0],
        "attention_downsample_rate": width // inner,
        "num_hidden_layers": count_weights(state, f"{part}.transformer.layers.", ".norm1.weight"),
        "num_multimask_outputs": state[f"{part}.mask_tokens.weight"].shape[0] - 1,
        "iou_head_hidden_dim": state[f"{part}.iou_prediction_head.layers.0.weight"].shape[0],
    }
