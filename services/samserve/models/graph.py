"""SAM's decoder as one graph over plain tensors: what is exported to ONNX, and what nano is trained through.

The modules are transformers'; this file only joins them the way SAM's authors do, with the prompt labels of SAM
(`-1` padding, `0` background, `1` foreground, `2` and `3` a box's corners) and all four masks in the answer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPromptEncoder

PAD_LABEL = -1


class DecoderGraph(nn.Module):
    """Prompts and an embedding to low-res logits and predicted IoUs."""

    def __init__(self, prompt_encoder: SamPromptEncoder, mask_decoder: SamMaskDecoder) -> None:
        super().__init__()
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder

    def forward(
        self, embedding: Tensor, points: Tensor, labels: Tensor, mask_input: Tensor, has_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decode N prompts.

        embedding: [1, 256, G, G], shared, or [N, 256, G, G]. points: [N, K, 2] x, y in model-frame pixels.
        labels: [N, K]. mask_input: [N, 1, 4G, 4G] low-res logits of a former answer, read where has_mask [N] is 1.
        Returns low-res logits [N, 4, 4G, 4G] and predicted IoU [N, 4]: index 0 is the single-mask answer, 1 to 3 the
        three candidates.
        """
        dense = self.embed_masks(mask_input, has_mask)
        return self._decode(embedding + dense, self.embed_points(points, labels))

    def embed_masks(self, mask_input: Tensor, has_mask: Tensor) -> Tensor:
        """[B, 1, 4G, 4G] and [B] -> what is added to the embedding, [B, 256, G, G]."""
        encoder = self.prompt_encoder
        given = has_mask.reshape(-1, 1, 1, 1)
        none = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        return given * encoder.mask_embed(mask_input) + (1 - given) * none

    def embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        """[N, K, 2] and [N, K] -> [N, K, 256]. Source: SAM's ONNX wrapper, which embeds box corners as points too."""
        encoder = self.prompt_encoder
        frame = encoder.input_image_size
        placed = self._place((points + 0.5) / frame)
        label = labels[..., None]
        sparse = torch.where(label == PAD_LABEL, encoder.not_a_point_embed.weight, placed)
        for kind, embed in enumerate(encoder.point_embed):
            sparse = sparse + (label == kind) * embed.weight
        return sparse

    def _decode(self, image: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
        decoder = self.mask_decoder
        count = sparse.shape[0]
        fixed = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([fixed.expand(count, -1, -1), sparse], 1)[:, None]
        tokens, image = decoder.transformer(
            point_embeddings=tokens,
            image_embeddings=image,
            image_positional_embeddings=self.grid_encoding(),
            attention_similarity=None,
        )
        cells = self.prompt_encoder.image_embedding_size[0]
        grid = image[:, 0].transpose(1, 2).reshape(count, -1, cells, cells)
        fine = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(grid)))
        fine = decoder.activation(decoder.upscale_conv2(fine))
        heads = decoder.output_hypernetworks_mlps
        weights = torch.stack([head(tokens[:, 0, 1 + k]) for k, head in enumerate(heads)], 1)
        logits = (weights @ fine.flatten(2)).reshape(count, len(heads), 4 * cells, 4 * cells)
        return logits, decoder.iou_prediction_head(tokens[:, 0, 0])

    def grid_encoding(self) -> Tensor:
        """[1, 256, G, G] positional encoding of the embedding's cell centres."""
        cells = self.prompt_encoder.image_embedding_size[0]
        centre = (torch.arange(cells, dtype=torch.float32) + 0.5) / cells
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        return self._place(torch.stack([x, y], -1)).permute(2, 0, 1)[None]

    def _place(self, where: Tensor) -> Tensor:
        """[..., 2] (x, y) as shares of the frame -> [..., 256] random Fourier features. Source: SAM."""
        frequencies = self.prompt_encoder.shared_embedding.positional_embedding
        angle = 2 * math.pi * ((2 * where - 1) @ frequencies)
        return torch.cat([angle.sin(), angle.cos()], -1)
