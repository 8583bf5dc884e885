"""SAM 3's checkpoints with random weights, in Meta's and transformers' layout.

`PYTHONPATH=tests:services python tests/checkpoints_sam3.py FOLDER` writes a small one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from checkpoints import Shapes, drawn, layer, mask_shapes, mlp3, norm, prompt_shapes
from safetensors.torch import save_file
from samserve.core.tokens import Vocabulary
from samserve.export.families.sam3_model import Sam3
from torch import Tensor
from transformers.models.sam3_video.configuration_sam3_video import Sam3VideoConfig

# Merges of the small vocabulary: enough for a few words to be one token each.
MERGES = [
    ("c", "o"), ("i", "n</w>"), ("co", "in</w>"), ("t", "a"), ("b", "l"), ("bl", "e</w>"),
    ("ta", "ble</w>"), ("r", "e"), ("re", "d</w>"), ("d", "o"), ("do", "t</w>"),
]  # fmt: skip

# width, MLP, layers, heads, frame, window, global, pretrained; DETR layers; text width, layers
SIZES: dict[str, dict[str, Any]] = {
    "mini": {
        "vision": (64, 160, 4, 2, 224, 8, [1, 3], 112),
        "layers": 2,
        "text": (64, 128, 2, 512 + len(MERGES) + 2),
    },
    "full": {
        "vision": (1024, 4736, 32, 16, 1008, 24, [7, 15, 23, 31], 336),
        "layers": 6,
        "text": (1024, 4096, 24, 49408),
    },
}


def config(size: str = "mini") -> Sam3VideoConfig:
    """transformers' description of the sizes."""
    width, mlp, depth, heads, frame, window, everywhere, pretrained = SIZES[size]["vision"]
    text_width, text_mlp, text_depth, words = SIZES[size]["text"]
    layers = {"num_layers": SIZES[size]["layers"]}
    cells = frame // 14
    vision = {
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": width,
            "intermediate_size": mlp,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "image_size": frame,
            "patch_size": 14,
            "window_size": window,
            "global_attn_indexes": everywhere,
            "pretrain_image_size": pretrained,
        },
        "backbone_feature_sizes": [[k * cells, k * cells] for k in (4, 2, 1)],
    }
    return Sam3VideoConfig(
        detector_config={
            "vision_config": vision,
            "text_config": {
                "model_type": "clip_text_model",
                "vocab_size": words,
                "hidden_size": text_width,
                "intermediate_size": text_mlp,
                "projection_dim": 512,
                "num_hidden_layers": text_depth,
                "num_attention_heads": text_width // 64,
                "max_position_embeddings": 32,
                "hidden_act": "gelu",
            },
            "geometry_encoder_config": {"num_layers": min(3, layers["num_layers"])},
            "detr_encoder_config": layers,
            "detr_decoder_config": layers,
        },
        tracker_config={
            "vision_config": vision,
            "prompt_encoder_config": {"image_size": frame, "patch_size": 14},
            "image_size": frame,
        },
    )


def weights(sizes: Sam3VideoConfig, seed: int = 0) -> dict[str, Tensor]:
    """Draw all weights under transformers' names."""
    with torch.device("meta"):
        names = {name: tuple(tensor.shape) for name, tensor in Sam3(sizes).state_dict().items()}
    state = drawn(names, seed)
    for name, tensor in state.items():
        if name.endswith("reference_points.weight"):
            state[name] = torch.randn(
                tensor.shape, generator=torch.Generator().manual_seed(seed + 1)
            )
        elif "scale_layers" in name and tensor.dim() == 4:  # transposed: inputs first
            state[name] = tensor * (tensor[0].numel() / tensor.shape[0]) ** 0.5
    positions = "positional_embedding"
    tracker = "tracker_model"
    state[f"{tracker}.shared_image_embedding.{positions}"] = state[
        f"{tracker}.prompt_encoder.shared_embedding.{positions}"
    ]
    return state


def hf_sam3(path: Path, size: str = "mini") -> Path:
    """Write a folder as transformers does of its `Sam3VideoModel`, with some weights for videos."""
    path.mkdir()
    sizes = config(size)
    (path / "config.json").write_text(json.dumps(sizes.to_dict(), default=str))
    video = {
        "tracker_model.memory_attention.layer_norm.weight": torch.ones(256),
        "tracker_model.no_object_pointer": torch.ones(1, 256),
        "tracker_model.occlusion_spatial_embedding_parameter": torch.ones(1, 64),
    }
    state = weights(sizes) | video
    save_file({name: tensor.clone() for name, tensor in state.items()}, path / "model.safetensors")
    write_tokenizer(path)
    return path


def write_tokenizer(path: Path) -> None:
    """Write vocab.json and merges.txt, as transformers does of CLIP's tokenizer."""
    own = Vocabulary(MERGES)
    ids = {**own.ids, "<|startoftext|>": own.begin, "<|endoftext|>": own.end}
    (path / "vocab.json").write_text(json.dumps(ids))
    lines = ["#version: 0.2", *map(" ".join, MERGES)]
    (path / "merges.txt").write_text("\n".join(lines))


def meta_sam3(path: Path, size: str = "mini") -> Path:
    """Write a file such as Meta's sam3.pt, with a few weights that images do not need."""
    torch.save(drawn(meta_shapes(size)) | rotations(size), path)
    write_tokenizer(path.parent)
    return path


def rotations(size: str) -> dict[str, Tensor]:
    """The rotations of the trunk's blocks, which Meta's files hold though they are computed."""
    width, _, depth, heads, frame, window, everywhere, _ = SIZES[size]["vision"]
    cells = frame // 14
    return {
        f"detector.backbone.vision_backbone.trunk.blocks.{k}.attn.freqs_cis": torch.ones(
            (cells if k in everywhere else window) ** 2, width // heads // 2, dtype=torch.complex64
        )
        for k in range(depth)
    }


def meta_shapes(size: str) -> Shapes:
    """Names and shapes of Meta's Sam3Image and its tracker, without most weights for videos."""
    shapes = trunk_shapes(size) | text_shapes(size) | detector_shapes(SIZES[size]["layers"])
    decoder = "tracker.sam_mask_decoder"
    shapes |= prompt_shapes("tracker.sam_prompt_encoder")
    shapes |= mask_shapes(decoder, "mlp.layers.0", "mlp.layers.1")
    shapes |= layer(f"{decoder}.conv_s0", 32, 256, 1, 1) | layer(
        f"{decoder}.conv_s1", 64, 256, 1, 1
    )
    shapes |= {f"{decoder}.obj_score_token.weight": (1, 256)}
    shapes |= mlp3(f"{decoder}.pred_obj_score_head", 256, 1)
    return shapes | {
        "tracker.no_mem_embed": (1, 1, 256),
        "tracker.no_mem_pos_enc": (1, 1, 256),
        "tracker.maskmem_tpos_enc": (7, 1, 1, 64),
        "tracker.transformer.encoder.layers.0.linear1.weight": (2048, 256),
    }


def trunk_shapes(size: str) -> Shapes:
    width, mlp, depth, _, _, _, _, pretrained = SIZES[size]["vision"]
    vision = "detector.backbone.vision_backbone"
    trunk = f"{vision}.trunk"
    shapes: Shapes = {
        f"{trunk}.pos_embed": (1, 1 + (pretrained // 14) ** 2, width),
        f"{trunk}.patch_embed.proj.weight": (width, 3, 14, 14),
        **norm(f"{trunk}.ln_pre", width),
    }
    for k in range(depth):
        block = f"{trunk}.blocks.{k}"
        shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= layer(f"{block}.attn.qkv", 3 * width, width)
        shapes |= layer(f"{block}.attn.proj", width, width)
        shapes |= layer(f"{block}.mlp.fc1", mlp, width) | layer(f"{block}.mlp.fc2", width, mlp)

    half, quarter = width // 2, width // 4
    for neck in ("convs", "sam2_convs"):
        levels = [f"{vision}.{neck}.{level}" for level in range(4)]
        shapes |= {f"{levels[0]}.dconv_2x2_0.weight": (width, half, 2, 2)}
        shapes |= {f"{levels[0]}.dconv_2x2_0.bias": (half,)}
        shapes |= {f"{levels[0]}.dconv_2x2_1.weight": (half, quarter, 2, 2)}
        shapes |= {f"{levels[0]}.dconv_2x2_1.bias": (quarter,)}
        shapes |= {f"{levels[1]}.dconv_2x2.weight": (width, half, 2, 2)}
        shapes |= {f"{levels[1]}.dconv_2x2.bias": (half,)}
        for level, inputs in zip(levels, (quarter, half, width, width), strict=True):
            shapes |= layer(f"{level}.conv_1x1", 256, inputs, 1, 1)
            shapes |= layer(f"{level}.conv_3x3", 256, 256, 3, 3)
    return shapes


def text_shapes(size: str) -> Shapes:
    width, mlp, depth, words = SIZES[size]["text"]
    text = "detector.backbone.language_backbone"
    shapes: Shapes = {
        f"{text}.encoder.token_embedding.weight": (words, width),
        f"{text}.encoder.positional_embedding": (32, width),
        f"{text}.encoder.text_projection": (width, 512),
        **norm(f"{text}.encoder.ln_final", width),
        **layer(f"{text}.resizer", 256, width),
    }
    for k in range(depth):
        block = f"{text}.encoder.transformer.resblocks.{k}"
        shapes |= norm(f"{block}.ln_1", width) | norm(f"{block}.ln_2", width)
        shapes |= joined_attention(f"{block}.attn", width)
        shapes |= layer(f"{block}.mlp.c_fc", mlp, width) | layer(f"{block}.mlp.c_proj", width, mlp)
    return shapes


def detector_shapes(depth: int) -> Shapes:
    shapes: Shapes = {}
    geometry = "detector.geometry_encoder"
    encoder, decoder = (f"detector.transformer.{part}" for part in ("encoder", "decoder"))
    for k in range(min(3, depth)):
        shapes |= fusion_shapes(f"{geometry}.encode.{k}")
    for k in range(depth):
        shapes |= fusion_shapes(f"{encoder}.layers.{k}")
        block = f"{decoder}.layers.{k}"
        for attention in ("self_attn", "ca_text", "cross_attn"):
            shapes |= joined_attention(f"{block}.{attention}", 256)
        for name in ("norm1", "norm2", "norm3", "catext_norm"):
            shapes |= norm(f"{block}.{name}", 256)
        shapes |= layer(f"{block}.linear1", 2048, 256) | layer(f"{block}.linear2", 256, 2048)

    shapes |= {f"{geometry}.label_embed.weight": (2, 256), f"{geometry}.cls_embed.weight": (1, 256)}
    for kind, sides in (("points", 2), ("boxes", 4)):
        shapes |= layer(f"{geometry}.{kind}_direct_project", 256, sides)
        shapes |= layer(f"{geometry}.{kind}_pos_enc_project", 256, 254 + sides)
    shapes |= layer(f"{geometry}.points_pool_project", 256, 256)
    shapes |= layer(f"{geometry}.boxes_pool_project", 256, 256, 7, 7)
    shapes |= layer(f"{geometry}.final_proj", 256, 256)
    for name in ("img_pre_norm", "norm", "encode_norm"):
        shapes |= norm(f"{geometry}.{name}", 256)

    shapes |= {
        f"{decoder}.query_embed.weight": (200, 256),
        f"{decoder}.reference_points.weight": (200, 4),
        f"{decoder}.presence_token.weight": (1, 256),
    }
    shapes |= norm(f"{decoder}.norm", 256) | norm(f"{decoder}.presence_token_out_norm", 256)
    shapes |= mlp3(f"{decoder}.bbox_embed", 256, 4) | mlp3(f"{decoder}.presence_token_head", 256, 1)
    shapes |= layer(f"{decoder}.ref_point_head.layers.0", 256, 512)
    shapes |= layer(f"{decoder}.ref_point_head.layers.1", 256, 256)
    for axis in "xy":
        shapes |= layer(f"{decoder}.boxRPB_embed_{axis}.layers.0", 256, 2)
        shapes |= layer(f"{decoder}.boxRPB_embed_{axis}.layers.1", 8, 256)

    scoring = "detector.dot_prod_scoring"
    shapes |= layer(f"{scoring}.prompt_mlp.layers.0", 2048, 256)
    shapes |= layer(f"{scoring}.prompt_mlp.layers.1", 256, 2048)
    shapes |= norm(f"{scoring}.prompt_mlp.out_norm", 256)
    shapes |= layer(f"{scoring}.prompt_proj", 256, 256) | layer(f"{scoring}.hs_proj", 256, 256)

    head = "detector.segmentation_head"
    for k in range(3):
        shapes |= layer(f"{head}.pixel_decoder.conv_layers.{k}", 256, 256, 3, 3)
        shapes |= norm(f"{head}.pixel_decoder.norms.{k}", 256)
        shapes |= layer(f"{head}.mask_predictor.mask_embed.layers.{k}", 256, 256)
    shapes |= layer(f"{head}.instance_seg_head", 256, 256, 1, 1)
    shapes |= layer(f"{head}.semantic_seg_head", 1, 256, 1, 1)
    shapes |= joined_attention(f"{head}.cross_attend_prompt", 256)
    return shapes | norm(f"{head}.cross_attn_norm", 256)


def fusion_shapes(block: str) -> Shapes:
    """A layer of the geometry encoder, or of the DETR encoder."""
    shapes = joined_attention(f"{block}.self_attn", 256)
    shapes |= joined_attention(f"{block}.cross_attn_image", 256)
    for k in (1, 2, 3):
        shapes |= norm(f"{block}.norm{k}", 256)
    return shapes | layer(f"{block}.linear1", 2048, 256) | layer(f"{block}.linear2", 256, 2048)


def joined_attention(name: str, width: int) -> Shapes:
    return {
        f"{name}.in_proj_weight": (3 * width, width),
        f"{name}.in_proj_bias": (3 * width,),
        **layer(f"{name}.out_proj", width, width),
    }


if __name__ == "__main__":
    hf_sam3(Path(sys.argv[1]))
