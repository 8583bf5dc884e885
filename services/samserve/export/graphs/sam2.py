"""SAM 2 on pictures as two graphs: the encoder with its three scales of features, and the decoder that reads them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Sam2Model

from samserve.export.graphs.decoder import DecoderGraph


class Sam2Encoder(nn.Module):
    """[B, 3, frame, frame] normalised RGB -> embedding [B, 256, G, G], fine_1 [B, 64, 2G, 2G], fine_0 [B, 32, 4G, 4G].

    The position of every cell, which transformers interpolates for each image, is worked out once. Source: SAM 2,
    SAM2ImagePredictor.set_image, which adds the embedding of "no memory" and projects the fine scales beforehand.
    """

    def __init__(self, model: Sam2Model) -> None:
        super().__init__()
        backbone, decoder = model.vision_encoder.backbone, model.mask_decoder
        self.patch_embed, self.blocks, self.stage_ends = (
            backbone.patch_embed,
            backbone.blocks,
            backbone.stage_ends,
        )
        self.neck = model.vision_encoder.neck
        self.conv_s0, self.conv_s1 = decoder.conv_s0, decoder.conv_s1
        strides = self.patch_embed.projection.stride
        frame = model.prompt_encoder.input_image_size
        place = backbone._get_pos_embed((frame // strides[0], frame // strides[1]))
        self.register_buffer("place", place.detach().contiguous())
        self.register_buffer("no_memory", model.no_memory_embedding.detach().reshape(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.patch_embed(pixels) + self.place
        stages = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.stage_ends:
                stages.append(x)
        scales, _ = self.neck(tuple(stages))  # coarse to fine, of which the first is never used
        return scales[1] + self.no_memory, self.conv_s1(scales[2]), self.conv_s0(scales[3])


class Sam2DecoderGraph(DecoderGraph):
    """As SAM's, with the fine features, and a first token that asks whether there is an object: it takes part in the
    attention, its answer is not given.
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
        """Decode N prompts on one image; its three tensors are [1, ...]. All else as DecoderGraph.forward."""
        decoder = self.mask_decoder
        fixed = torch.cat(
            [decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight]
        )
        image = embedding + self.embed_masks(mask_input, has_mask)
        tokens, grid = self.attend(fixed, self.embed_points(points, labels), image)
        fine = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(grid) + fine_1))
        fine = decoder.activation(decoder.upscale_conv2(fine) + fine_0)
        return self.masks(tokens[:, 2:], fine), decoder.iou_prediction_head(tokens[:, 1])

    def kinds(self) -> list[Tensor]:
        table = self.prompt_encoder.point_embed.weight
        return [table[kind : kind + 1] for kind in range(len(table))]
