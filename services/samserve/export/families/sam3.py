"""SAM 3 on still images: clicks and concepts on one trunk.

Original files are {"detector...": weight, "tracker...": weight}, with weights for videos.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.sam3_video.configuration_sam3_video import Sam3VideoConfig

from samserve.core.family import family_named
from samserve.export.families.family import ConceptExport, ExportFamily, ReferenceImage
from samserve.export.families.sam2 import Sam2DecoderGraph
from samserve.export.families.sam3_model import ConceptJudge, Judge, Sam3, restore
from samserve.export.families.sam3_names import DETECTOR_NAMES, TRACKER_NAMES, UNUSED, VIDEO_ONLY
from samserve.export.families.shared import mask_decoder_sizes, prompt_encoder_sizes
from samserve.export.graphs.concepts import ConceptGraph
from samserve.export.graphs.rope_vit import RopeVit
from samserve.export.graphs.text import TextGraph
from samserve.export.weights import BadCheckpoint, State, count_weights, rename_weights

TRUNK_PART = "detector.backbone.vision_backbone.trunk"
TEXT = "detector.backbone.language_backbone"
HEAD_DEPTH = 64  # channels of a head of CLIP's text encoder


class Sam3Encoder(nn.Module):
    """[B, 3, frame, frame] normalised RGB -> the embedding's three tensors, and the trunk.

    They are embedding [B, 256, G, G], fine_1 [B, 64, 2G, 2G], fine_0 [B, 32, 4G, 4G] and trunk
    [B, C, G, G]. Source: SAM 3, sam1_task_predictor.py, which adds the "no memory" embedding to the
    level of G cells.
    """

    def __init__(self, model: Sam3) -> None:
        super().__init__()
        self.vit = RopeVit(model.detector_model.vision_encoder.backbone)
        self.levels = nn.ModuleList(model.tracker_neck.fpn_layers[:3])  # 4, 2 and 1 times G
        self.conv_s0 = model.mask_decoder.conv_s0
        self.conv_s1 = model.mask_decoder.conv_s1
        no_memory = model.tracker_model.no_memory_embedding
        self.register_buffer("no_memory", no_memory.detach().reshape(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        trunk = self.vit(pixels)
        fine_0, fine_1, coarse = (level(trunk) for level in self.levels)
        return coarse + self.no_memory, self.conv_s1(fine_1), self.conv_s0(fine_0), trunk


def _detect(state: State) -> str | None:
    return "SAM 3" if f"{TRUNK_PART}.patch_embed.proj.weight" in state else None


def _rename(state: State) -> State:
    """Split joined projections, join the point labels' rows, and drop what images do not need."""
    unused = re.compile("|".join(UNUSED))
    image = {name: tensor for name, tensor in state.items() if not unused.search(name)}

    positions = f"{TRUNK_PART}.pos_embed"
    image[positions] = image[positions][:, 1:]  # without the class token
    projection = f"{TEXT}.encoder.text_projection"
    image[projection] = image[projection].T.contiguous()
    labels = [
        image.pop(f"tracker.sam_prompt_encoder.point_embeddings.{label}.weight")
        for label in range(4)
    ]

    detector, tracker = (
        {name: tensor for name, tensor in image.items() if name.startswith(part)}
        for part in ("detector.", "tracker.")
    )
    renamed = _split(rename_weights(detector, DETECTOR_NAMES))
    renamed |= rename_weights(tracker, TRACKER_NAMES)
    renamed["tracker_model.prompt_encoder.point_embed.weight"] = torch.cat(labels)
    return renamed


def _split(state: State) -> State:
    """Replace each `qkv` or `in_proj` by its three parts."""
    split: State = {}
    for name, tensor in state.items():
        joined = re.fullmatch(r"(.*\.)(?:qkv\.|in_proj_)(weight|bias)", name)
        if joined is None:
            split[name] = tensor
            continue
        for part, rows in zip("qkv", tensor.chunk(3), strict=True):
            split[f"{joined[1]}{part}_proj.{joined[2]}"] = rows.contiguous()
    return split


def _read_config(state: State) -> PretrainedConfig:
    """Sizes from the weights' shapes and from the rotations of the trunk's blocks."""
    vision = _vision_sizes(state)
    cells = vision["image_size"] // vision["patch_size"]
    feature_sizes = [[k * cells, k * cells] for k in (4, 2, 1)]
    prompt = "tracker.sam_prompt_encoder"
    sizes = prompt_encoder_sizes(state, prompt)
    vision_config = {
        "backbone_config": {"model_type": "sam3_vit_model", **vision},
        "backbone_feature_sizes": feature_sizes,
        "fpn_hidden_size": sizes["hidden_size"],
    }
    frame = {key: vision[key] for key in ("image_size", "patch_size")}
    return Sam3VideoConfig(
        detector_config={
            "vision_config": vision_config,
            "text_config": _text_sizes(state),
            **_head_sizes(state),
        },
        tracker_config={
            "vision_config": vision_config,
            "prompt_encoder_config": frame | sizes,
            "mask_decoder_config": mask_decoder_sizes(
                state, "tracker.sam_mask_decoder", mlp="layers.0"
            ),
            "image_size": vision["image_size"],
        },
    )


def _vision_sizes(state: State) -> dict[str, Any]:
    depth = count_weights(state, f"{TRUNK_PART}.blocks.", ".norm1.weight")
    width, _, patch, _ = state[f"{TRUNK_PART}.patch_embed.proj.weight"].shape
    rotations = [state[f"{TRUNK_PART}.blocks.{k}.attn.freqs_cis"].shape for k in range(depth)]
    areas = [shape[0] for shape in rotations]
    cells, window = (round(area**0.5) for area in (max(areas), min(areas)))
    if cells**2 != max(areas) or window**2 != min(areas) or cells % window:
        raise BadCheckpoint(f"unsupported SAM 3 encoder: windows of {window} in {cells} cells")

    pretrained = round((state[f"{TRUNK_PART}.pos_embed"].shape[1] - 1) ** 0.5)
    return {
        "hidden_size": width,
        "intermediate_size": state[f"{TRUNK_PART}.blocks.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": depth,
        "num_attention_heads": width // (2 * rotations[0][1]),
        "image_size": cells * patch,
        "patch_size": patch,
        "pretrain_image_size": pretrained * patch,
        "window_size": window,
        "global_attn_indexes": [k for k, area in enumerate(areas) if area == max(areas)],
    }


def _text_sizes(state: State) -> dict[str, Any]:
    blocks = f"{TEXT}.encoder.transformer.resblocks"
    vocabulary, width = state[f"{TEXT}.encoder.token_embedding.weight"].shape
    return {
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": state[f"{blocks}.0.mlp.c_fc.weight"].shape[0],
        "projection_dim": state[f"{TEXT}.encoder.text_projection"].shape[1],
        "num_hidden_layers": count_weights(state, f"{blocks}.", ".ln_1.weight"),
        "num_attention_heads": width // HEAD_DEPTH,
        "max_position_embeddings": state[f"{TEXT}.encoder.positional_embedding"].shape[0],
        "hidden_act": "gelu",
    }


def _head_sizes(state: State) -> dict[str, Any]:
    def layers(part: str) -> dict[str, Any]:
        return {
            "num_layers": count_weights(state, f"detector.{part}.", ".norm1.weight"),
            "intermediate_size": state[f"detector.{part}.0.linear1.weight"].shape[0],
        }

    decoder = "detector.transformer.decoder"
    return {
        "geometry_encoder_config": layers("geometry_encoder.encode"),
        "detr_encoder_config": layers("transformer.encoder.layers"),
        "detr_decoder_config": layers("transformer.decoder.layers")
        | {"num_queries": state[f"{decoder}.query_embed.weight"].shape[0]},
        "mask_decoder_config": {
            "num_upsampling_stages": count_weights(
                state, "detector.segmentation_head.pixel_decoder.conv_layers.", ".weight"
            )
        },
    }


def _reference_image(_model: PreTrainedModel, features: dict[str, Tensor]) -> ReferenceImage:
    maps = [features[name] for name in ("fine_0", "fine_1", "embedding")]
    return ReferenceImage(features, {"image_embeddings": maps})


def _encoder_size(config: PretrainedConfig) -> tuple[int, int]:
    backbone = config.detector_config.vision_config.backbone_config
    return backbone.hidden_size, backbone.num_hidden_layers


def _patch(model: PreTrainedModel) -> None:
    """Return all four masks, instead of one chosen by its stability."""
    model.mask_decoder.dynamic_multimask_via_stability = False


SAM3 = ExportFamily(
    core=family_named("sam3"),
    title="SAM 3",
    model=Sam3,
    config=Sam3VideoConfig,
    model_types=("sam3_video",),
    detect=_detect,
    read_config=_read_config,
    rename=_rename,
    encoder=Sam3Encoder,
    decoder=Sam2DecoderGraph,
    reference_image=_reference_image,
    encoder_size=_encoder_size,
    patch=_patch,
    judge=Judge,
    concepts=ConceptExport(
        text=lambda model: TextGraph(
            model.detector_model.text_encoder, model.detector_model.text_projection
        ),
        head=lambda model, top: ConceptGraph(model.detector_model, top),
        reference=ConceptJudge,
        tokens=lambda config: config.detector_config.text_config.max_position_embeddings,
        words=lambda config: config.detector_config.text_config.vocab_size,
        width=lambda config: config.detector_config.detr_encoder_config.hidden_size,
        top=50,
        threshold=0.5,
    ),
    restore=restore,
    frame=lambda config: config.tracker_config.prompt_encoder_config.image_size,
    parts=("detector_config", "tracker_config"),
    licence="SAM License",
    ignored=VIDEO_ONLY,
)
