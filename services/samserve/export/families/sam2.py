"""SAM 2 and 2.1 on still images. Original files are {"model": weights}, with weights for videos."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, Sam2Config, Sam2Model

from samserve.core.family import family_named
from samserve.export.families.family import ExportFamily, ReferenceImage
from samserve.export.families.shared import (
    MLP_AND_ATTENTION_NAMES,
    PROMPT_AND_MASK_NAMES,
    Names,
    mask_decoder_sizes,
    prompt_encoder_sizes,
)
from samserve.export.graphs.decoder import DecoderGraph
from samserve.export.weights import BadCheckpoint, State, count_weights, rename_weights

TRUNK = "image_encoder.trunk"
FRAME = 1024  # pixels
PATCH = 16
ONLY_IN_2_1 = "no_obj_embed_spatial"  # a weight that SAM 2.1 added

NAMES: Names = (
    (
        r"^image_encoder\.trunk\.patch_embed\.proj\.",
        "vision_encoder.backbone.patch_embed.projection.",
    ),
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d+)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    (r"^no_mem_embed$", "no_memory_embedding"),
    *PROMPT_AND_MASK_NAMES,
    *MLP_AND_ATTENTION_NAMES,
)
VIDEO_ONLY = (  # prefixes of weights that still images do not need
    "mask_downsample.",
    "maskmem_tpos_enc",
    "memory_attention.",
    "memory_encoder.",
    "no_mem_pos_enc",
    "no_obj_embed_spatial",
    "no_obj_ptr",
    "obj_ptr_proj.",
    "obj_ptr_tpos_proj.",
)


@dataclass(frozen=True, slots=True)
class Hiera:
    """Sizes of a published encoder that no weight's shape gives. Source: SAM 2's configurations.

    Attributes:
        name: Of the size.
        heads: Of attention in the first stage; each later stage has twice as many.
        global_blocks: Indices of the blocks that see the whole image.
        windows: Side of the attention windows of each stage, in cells.
    """

    name: str
    heads: int
    global_blocks: tuple[int, ...]
    windows: tuple[int, ...] = (8, 4, 14, 7)


SIZES = {  # by width and number of blocks
    (96, 12): Hiera("tiny", 1, (5, 7, 9)),
    (96, 16): Hiera("small", 1, (7, 10, 13)),
    (112, 24): Hiera("base-plus", 2, (12, 16, 20)),
    (144, 48): Hiera("large", 2, (23, 33, 43), (8, 4, 16, 8)),
}


class Sam2Encoder(nn.Module):
    """[B, 3, frame, frame] normalised RGB -> the embedding's three tensors.

    They are embedding [B, 256, G, G], fine_1 [B, 64, 2G, 2G] and fine_0 [B, 32, 4G, 4G].
    transformers interpolates the positions for every image; here they are computed once.
    Source: SAM 2, SAM2ImagePredictor.set_image, which adds the "no memory" embedding and projects
    the fine features before the decoder runs.
    """

    def __init__(self, model: Sam2Model) -> None:
        super().__init__()
        backbone = model.vision_encoder.backbone
        self.patch_embed = backbone.patch_embed
        self.blocks = backbone.blocks
        self.stage_ends = backbone.stage_ends
        self.neck = model.vision_encoder.neck
        self.conv_s0 = model.mask_decoder.conv_s0
        self.conv_s1 = model.mask_decoder.conv_s1

        frame = model.prompt_encoder.input_image_size
        rows, columns = self.patch_embed.projection.stride
        positions = backbone._get_pos_embed((frame // rows, frame // columns))
        self.register_buffer("place", positions.detach().contiguous())
        self.register_buffer("no_memory", model.no_memory_embedding.detach().reshape(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.patch_embed(pixels) + self.place
        stages = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.stage_ends:
                stages.append(x)
        scales, _ = self.neck(tuple(stages))  # coarse to fine; the first is unused
        return scales[1] + self.no_memory, self.conv_s1(scales[2]), self.conv_s0(scales[3])


class Sam2DecoderGraph(DecoderGraph):
    """SAM's decoder with the fine features, and one more token in front of all others.

    That token predicts whether there is an object; it takes part in the attention, but its
    prediction is not returned.
    """

    def forward(  # type: ignore[override]
        self,
        embedding: Tensor,
        fine_1: Tensor,
        fine_0: Tensor,
        points: Tensor,
        labels: Tensor,
        mask_input: Tensor,
        has_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Decode N prompts on one image; its three tensors are [1, ...].

        All other arguments and the results are those of DecoderGraph.forward.
        """
        decoder = self.mask_decoder
        output_tokens = torch.cat(
            [decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight]
        )
        image = embedding + self.embed_masks(mask_input, has_mask)
        tokens, grid = self.attend(output_tokens, self.embed_points(points, labels), image)

        fine = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(grid) + fine_1))
        fine = decoder.activation(decoder.upscale_conv2(fine) + fine_0)
        return self.masks(tokens[:, 2:], fine), decoder.iou_prediction_head(tokens[:, 1])

    def label_embeddings(self) -> list[Tensor]:
        table = self.prompt_encoder.point_embed.weight
        return [table[label : label + 1] for label in range(len(table))]


def _detect(state: State) -> str | None:
    if f"{TRUNK}.patch_embed.proj.weight" not in state:
        return None
    return "SAM 2.1" if ONLY_IN_2_1 in state else "SAM 2"


def _rename(state: State) -> State:
    """transformers keeps the embeddings of the four point labels in one table."""
    image = {name: tensor for name, tensor in state.items() if not name.startswith(VIDEO_ONLY)}
    labels = [
        image.pop(f"sam_prompt_encoder.point_embeddings.{label}.weight") for label in range(4)
    ]
    renamed = rename_weights(image, NAMES)
    renamed["prompt_encoder.point_embed.weight"] = torch.cat(labels)
    return renamed


def _read_config(state: State) -> PretrainedConfig:
    """Sizes from the weights' shapes, and from SIZES what shapes do not give."""
    depth = count_weights(state, f"{TRUNK}.blocks.", ".norm1.weight")
    width, _, kernel, _ = state[f"{TRUNK}.patch_embed.proj.weight"].shape
    if (width, depth) not in SIZES:
        supported = ", ".join(f"{size.name} {w} x {d}" for (w, d), size in SIZES.items())
        raise BadCheckpoint(
            f"unsupported SAM 2 encoder: width {width}, {depth} blocks; supported: {supported}"
        )
    hiera = SIZES[width, depth]

    # A new stage starts where the blocks become wider.
    widths = [state[f"{TRUNK}.blocks.{k}.attn.proj.weight"].shape[0] for k in range(depth)]
    starts = [0, *(k for k, (a, b) in enumerate(pairwise(widths), 1) if a != b), depth]
    stages = [widths[start] for start in starts[:-1]]
    backbone = {
        "model_type": "sam2_hiera_det_model",
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

    prompt = prompt_encoder_sizes(state, "sam_prompt_encoder")
    return Sam2Config(
        vision_config={
            "backbone_config": backbone,
            "backbone_channel_list": stages[::-1],
            "fpn_hidden_size": prompt["hidden_size"],
        },
        prompt_encoder_config={"image_size": FRAME, "patch_size": PATCH, **prompt},
        mask_decoder_config=mask_decoder_sizes(state, "sam_mask_decoder", mlp="layers.0"),
    )


def _reference_image(_model: PreTrainedModel, features: list[Tensor]) -> ReferenceImage:
    fine_0, fine_1, embedding = features
    tensors = {"embedding": embedding, "fine_1": fine_1, "fine_0": fine_0}
    return ReferenceImage(tensors, {"image_embeddings": features})


def _encoder_size(config: PretrainedConfig) -> tuple[int, int]:
    backbone = config.vision_config.backbone_config
    return backbone.hidden_size, sum(backbone.blocks_per_stage)


def _patch(model: PreTrainedModel) -> None:
    """Return all four masks, instead of one chosen by its stability."""
    model.mask_decoder.dynamic_multimask_via_stability = False


SAM2 = ExportFamily(
    core=family_named("sam2"),
    title="SAM 2",
    model=Sam2Model,
    config=Sam2Config,
    model_types=("sam2", "sam2_video"),
    detect=_detect,
    read_config=_read_config,
    rename=_rename,
    encoder=Sam2Encoder,
    decoder=Sam2DecoderGraph,
    reference_image=_reference_image,
    encoder_size=_encoder_size,
    patch=_patch,
    ignored=tuple(Sam2Model._keys_to_ignore_on_load_unexpected),
)
