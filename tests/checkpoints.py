"""Checkpoints with random weights, with the names, shapes and formats of the published ones.

`meta_sam`, `meta_sam2` and `hf_folder` write one; checkpoints_sam3.py has those of SAM 3. The size
"mini" is for tests, all others are the
published ones. The weights are drawn so that every part matters, norms and biases too. Positional
frequencies are drawn as SAM's authors do.
"""

import json
import re
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    PretrainedConfig,
    Sam2Config,
    Sam2Model,
    SamConfig,
    SamHQConfig,
    SamHQModel,
    SamModel,
)

Shapes = dict[str, tuple[int, ...]]

# width, depth, heads, MLP, frame, window, blocks with global attention
SAM_SIZES = {
    "mini": (64, 2, 2, 160, 256, 5, [1]),
    "b": (768, 12, 12, 3072, 1024, 14, [2, 5, 8, 11]),
    "l": (1024, 24, 16, 4096, 1024, 14, [5, 11, 17, 23]),
    "h": (1280, 32, 16, 5120, 1024, 14, [7, 15, 23, 31]),
}
# width, blocks per stage, heads, blocks with global attention, windows, background of the
# positions, frame
SAM2_SIZES = {
    "mini": (16, [1, 1, 3, 1], 1, [3], [8, 4, 7, 7], 7, 256),
    "tiny": (96, [1, 2, 7, 2], 1, [5, 7, 9], [8, 4, 14, 7], 7, 1024),
    "small": (96, [1, 2, 11, 2], 1, [7, 10, 13], [8, 4, 14, 7], 7, 1024),
    "base-plus": (112, [2, 3, 16, 3], 2, [12, 16, 20], [8, 4, 14, 7], 14, 1024),
    "large": (144, [2, 6, 36, 4], 2, [23, 33, 43], [8, 4, 16, 8], 7, 1024),
}


def meta_sam(path: Path, size: str = "mini", hq: bool = False) -> Path:
    """Write a file such as segment-anything's sam_vit_b_01ec64.pth, or sam-hq's."""
    torch.save(drawn(sam_shapes(size, hq)), path)
    return path


def meta_sam2(path: Path, size: str = "tiny") -> Path:
    """Write a file such as sam2's sam2.1_hiera_tiny.pt, with a few weights for videos."""
    video = {
        "maskmem_tpos_enc": (7, 1, 1, 64),
        "no_mem_pos_enc": (1, 1, 256),
        "no_obj_ptr": (1, 256),
        "no_obj_embed_spatial": (1, 64),
        "memory_attention.layers.0.self_attn.q_proj.weight": (256, 256),
        "memory_encoder.out_proj.weight": (64, 256, 1, 1),
        "mask_downsample.weight": (1, 1, 4, 4),
        "obj_ptr_proj.layers.0.weight": (256, 256),
        "obj_ptr_tpos_proj.weight": (64, 256),
    }
    torch.save({"model": drawn(sam2_shapes(size) | video)}, path)
    return path


def hf_folder(path: Path, model_type: str, size: str, half: bool = False) -> Path:
    """Write a folder as transformers does.

    Args:
        path: The folder.
        model_type: sam, sam2, sam2_video or sam_hq.
        size: One of SAM_SIZES or SAM2_SIZES.
        half: Whether the weights are fp16.
    """
    models = {"sam": SamModel, "sam2": Sam2Model, "sam2_video": Sam2Model, "sam_hq": SamHQModel}
    model = models[model_type](hf_config(model_type, size))
    weights = model.state_dict()
    state = drawn({name: tuple(tensor.shape) for name, tensor in weights.items()})
    frequencies = state["shared_image_embedding.positional_embedding"]
    state["prompt_encoder.shared_embedding.positional_embedding"] = frequencies
    model.load_state_dict(state)
    (model.half() if half else model).save_pretrained(path)
    if model_type == "sam2_video":
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {"model_type": model_type}))
    return path


def hf_config(model_type: str, size: str) -> PretrainedConfig:
    if model_type.startswith("sam2"):
        return _sam2_config(size)
    width, depth, heads, mlp, frame, window, global_blocks = SAM_SIZES[size]
    vision = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "mlp_dim": mlp,
        "image_size": frame,
        "window_size": window,
        "global_attn_indexes": global_blocks,
        "num_pos_feats": 128,
    }
    prompt = {"image_size": frame}
    if model_type == "sam_hq":
        return SamHQConfig(
            vision_config=vision,
            prompt_encoder_config=prompt,
            mask_decoder_config={"vit_dim": width},
        )
    return SamConfig(vision_config=vision, prompt_encoder_config=prompt)


def _sam2_config(size: str) -> Sam2Config:
    width, blocks, heads, global_blocks, windows, background, frame = SAM2_SIZES[size]
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": width,
        "image_size": [frame, frame],
        "num_attention_heads": heads,
        "blocks_per_stage": blocks,
        "embed_dim_per_stage": [width * 2**k for k in range(4)],
        "num_attention_heads_per_stage": [heads * 2**k for k in range(4)],
        "window_size_per_stage": windows,
        "global_attention_blocks": global_blocks,
        "window_positional_embedding_background_size": [background, background],
    }
    vision = {
        "backbone_config": backbone,
        "backbone_channel_list": [width * 2**k for k in (3, 2, 1, 0)],
        "backbone_feature_sizes": [[frame // stride] * 2 for stride in (4, 8, 16)],
    }
    return Sam2Config(vision_config=vision, prompt_encoder_config={"image_size": frame})


def drawn(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: _draw(name, shape, generator) for name, shape in shapes.items()}


TRANSPOSED = (
    "upscal",
    "compress_vit",
    "embedding_encoder",
    "mask_decoder.encoder_conv",
)  # convolutions
TABLES = re.compile(r"(embed\w*|tokens?|rel_pos_\w+|point_embed\w*\.\d)(\.weight)?$")


def _draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    if name.endswith(("positional_encoding_gaussian_matrix", "positional_embedding")):
        return noise
    if name.endswith("bias"):
        return 0.1 * noise
    if len(shape) == 1:
        return 1 + 0.2 * noise
    if len(shape) == 4 and any(part in name for part in TRANSPOSED):
        return noise / shape[0] ** 0.5
    if TABLES.search(name):
        return 0.3 * noise
    inputs = 1
    for side in shape[1:]:
        inputs *= side
    return noise / inputs**0.5


def sam_shapes(size: str, hq: bool = False) -> Shapes:
    """Names and shapes of segment-anything's Sam, or of sam-hq's."""
    width, depth, heads, mlp, frame, window, global_blocks = SAM_SIZES[size]
    shapes: Shapes = {"image_encoder.pos_embed": (1, frame // 16, frame // 16, width)}
    shapes |= layer("image_encoder.patch_embed.proj", width, 3, 16, 16)
    for k in range(depth):
        block = f"image_encoder.blocks.{k}"
        reach = 2 * (frame // 16 if k in global_blocks else window) - 1
        shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= {f"{block}.attn.rel_pos_{axis}": (reach, width // heads) for axis in "hw"}
        shapes |= layer(f"{block}.attn.qkv", 3 * width, width) | layer(
            f"{block}.attn.proj", width, width
        )
        shapes |= layer(f"{block}.mlp.lin1", mlp, width) | layer(f"{block}.mlp.lin2", width, mlp)
    shapes |= {
        "image_encoder.neck.0.weight": (256, width, 1, 1),
        "image_encoder.neck.2.weight": (256, 256, 3, 3),
    }
    shapes |= norm("image_encoder.neck.1", 256) | norm("image_encoder.neck.3", 256)
    shapes |= prompt_shapes("prompt_encoder") | mask_shapes("mask_decoder", "mlp.lin1", "mlp.lin2")
    if hq:
        shapes |= hq_shapes("mask_decoder", width)
    return shapes


def sam2_shapes(size: str) -> Shapes:
    """Names and shapes of sam2's SAM2Base, without the weights for videos."""
    width, blocks, _, _, windows, background, _ = SAM2_SIZES[size]
    trunk = "image_encoder.trunk"
    shapes: Shapes = {
        f"{trunk}.pos_embed": (1, width, background, background),
        f"{trunk}.pos_embed_window": (1, width, windows[0], windows[0]),
        "no_mem_embed": (1, 1, 256),
    }
    shapes |= layer(f"{trunk}.patch_embed.proj", width, 3, 7, 7)
    index, before = 0, width
    for stage, count in enumerate(blocks):
        channels = width * 2**stage
        for _ in range(count):
            block = f"{trunk}.blocks.{index}"
            shapes |= norm(f"{block}.norm1", before) | norm(f"{block}.norm2", channels)
            shapes |= layer(f"{block}.attn.qkv", 3 * channels, before) | layer(
                f"{block}.attn.proj", channels, channels
            )
            shapes |= layer(f"{block}.mlp.layers.0", 4 * channels, channels)
            shapes |= layer(f"{block}.mlp.layers.1", channels, 4 * channels)
            if before != channels:
                shapes |= layer(f"{block}.proj", channels, before)
            index, before = index + 1, channels
        shapes |= layer(f"image_encoder.neck.convs.{3 - stage}.conv", 256, channels, 1, 1)
    decoder = "sam_mask_decoder"
    shapes |= prompt_shapes("sam_prompt_encoder") | mask_shapes(
        decoder, "mlp.layers.0", "mlp.layers.1"
    )
    shapes |= layer(f"{decoder}.conv_s0", 32, 256, 1, 1) | layer(
        f"{decoder}.conv_s1", 64, 256, 1, 1
    )
    shapes |= {f"{decoder}.obj_score_token.weight": (1, 256)}
    return shapes | mlp3(f"{decoder}.pred_obj_score_head", 256, 1)


def prompt_shapes(part: str) -> Shapes:
    shapes: Shapes = {f"{part}.pe_layer.positional_encoding_gaussian_matrix": (2, 128)}
    shapes |= {f"{part}.point_embeddings.{kind}.weight": (1, 256) for kind in range(4)}
    shapes |= {
        f"{part}.not_a_point_embed.weight": (1, 256),
        f"{part}.no_mask_embed.weight": (1, 256),
    }
    shapes |= layer(f"{part}.mask_downscaling.0", 4, 1, 2, 2) | norm(
        f"{part}.mask_downscaling.1", 4
    )
    shapes |= layer(f"{part}.mask_downscaling.3", 16, 4, 2, 2) | norm(
        f"{part}.mask_downscaling.4", 16
    )
    return shapes | layer(f"{part}.mask_downscaling.6", 256, 16, 1, 1)


def mask_shapes(part: str, first: str, second: str) -> Shapes:
    shapes: Shapes = {f"{part}.iou_token.weight": (1, 256), f"{part}.mask_tokens.weight": (4, 256)}
    for k in range(2):
        block = f"{part}.transformer.layers.{k}"
        shapes |= attention(f"{block}.self_attn", 256)
        shapes |= attention(f"{block}.cross_attn_token_to_image", 128)
        shapes |= attention(f"{block}.cross_attn_image_to_token", 128)
        shapes |= layer(f"{block}.{first}", 2048, 256) | layer(f"{block}.{second}", 256, 2048)
        for each in (1, 2, 3, 4):
            shapes |= norm(f"{block}.norm{each}", 256)
    shapes |= attention(f"{part}.transformer.final_attn_token_to_image", 128)
    shapes |= norm(f"{part}.transformer.norm_final_attn", 256)
    shapes |= upscaling(f"{part}.output_upscaling", 256, 64)
    for k in range(4):
        shapes |= mlp3(f"{part}.output_hypernetworks_mlps.{k}", 256, 32)
    return shapes | mlp3(f"{part}.iou_prediction_head", 256, 4)


def hq_shapes(part: str, width: int) -> Shapes:
    shapes: Shapes = {f"{part}.hf_token.weight": (1, 256)}
    shapes |= mlp3(f"{part}.hf_mlp", 256, 32)
    shapes |= upscaling(f"{part}.compress_vit_feat", width, 256) | upscaling(
        f"{part}.embedding_encoder", 256, 64
    )
    shapes |= layer(f"{part}.embedding_maskfeature.0", 64, 32, 3, 3) | norm(
        f"{part}.embedding_maskfeature.1", 64
    )
    return shapes | layer(f"{part}.embedding_maskfeature.3", 32, 64, 3, 3)


def layer(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def attention(name: str, inner: int) -> Shapes:
    shapes: Shapes = {}
    for each in ("q_proj", "k_proj", "v_proj"):
        shapes |= layer(f"{name}.{each}", inner, 256)
    return shapes | layer(f"{name}.out_proj", 256, inner)


def upscaling(name: str, inputs: int, inner: int) -> Shapes:
    """Two transposed convolutions to 32 channels, with a norm and an activation between them."""
    return {
        f"{name}.0.weight": (inputs, inner, 2, 2),
        f"{name}.0.bias": (inner,),
        **norm(f"{name}.1", inner),
        f"{name}.3.weight": (inner, 32, 2, 2),
        f"{name}.3.bias": (32,),
    }


def mlp3(name: str, inner: int, outputs: int) -> Shapes:
    return (
        layer(f"{name}.layers.0", inner, 256)
        | layer(f"{name}.layers.1", inner, inner)
        | layer(f"{name}.layers.2", outputs, inner)
    )
