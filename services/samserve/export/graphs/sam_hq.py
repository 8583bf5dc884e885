"""SAM-HQ as two graphs: SAM's, and a branch of finer features whose part that depends on the image alone is encoded."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import SamHQModel

from samserve.export.graphs.decoder import DecoderGraph
from samserve.export.graphs.vit import VitEncoder


class SamHqEncoder(VitEncoder):
    """[B, 3, frame, frame] normalised RGB -> embedding [B, 256, G, G] and hq [B, 32, 4G, 4G]."""

    def __init__(self, model: SamHQModel) -> None:
        super().__init__(model)
        decoder = model.mask_decoder
        self.activation = decoder.activation
        self.encoder_conv1, self.encoder_conv2 = decoder.encoder_conv1, decoder.encoder_conv2
        self.encoder_norm = decoder.encoder_norm
        self.compress_vit_conv1, self.compress_vit_conv2 = (
            decoder.compress_vit_conv1,
            decoder.compress_vit_conv2,
        )
        self.compress_vit_norm = decoder.compress_vit_norm

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        embedding, wholes = self.encode(pixels)
        late = self.activation(self.encoder_norm(self.encoder_conv1(embedding)))
        early = self.activation(
            self.compress_vit_norm(self.compress_vit_conv1(wholes[0].permute(0, 3, 1, 2)))
        )
        return embedding, self.encoder_conv2(late) + self.compress_vit_conv2(early)


class SamHqDecoderGraph(DecoderGraph):
    """As SAM's, with one more token, whose mask on the fine features is added to each of SAM's four."""

    def forward(  # type: ignore[override]
        self,
        embedding: Tensor,
        hq: Tensor,
        points: Tensor,
        labels: Tensor,
        mask_input: Tensor,
        has_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Decode N prompts on one image; embedding and hq are [1, ...]. All else as DecoderGraph.forward."""
        decoder = self.mask_decoder
        fixed = torch.cat(
            [decoder.iou_token.weight, decoder.mask_tokens.weight, decoder.hq_token.weight]
        )
        image = embedding + self.embed_masks(mask_input, has_mask)
        tokens, grid = self.attend(fixed, self.embed_points(points, labels), image)
        fine = self.upscale(grid)
        finer = (
            decoder.mask_conv2(decoder.activation(decoder.mask_norm(decoder.mask_conv1(fine)))) + hq
        )
        weights = decoder.hq_mask_mlp(tokens[:, -1:])
        side = finer.shape[-1]
        correction = (weights @ finer.flatten(2)).reshape(-1, 1, side, side)
        return self.masks(tokens[:, 1:], fine) + correction, decoder.iou_prediction_head(
            tokens[:, 0]
        )
