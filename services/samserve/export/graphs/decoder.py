"""SAM's decoder as one graph over plain tensors: exported to ONNX, and used to train nano.

The modules are transformers'. This file connects them as SAM's authors do, with SAM's prompt labels
(`-1` padding, `0` background, `1` foreground, `2` and `3` a box's corners) and all four masks as
output.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

PAD_LABEL = -1


class DecoderGraph(nn.Module):
    """Prompts and an embedding to low-res logits and predicted IoUs."""

    def __init__(self, prompt_encoder: nn.Module, mask_decoder: nn.Module) -> None:
        super().__init__()
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder

    def forward(
        self,
        embedding: Tensor,
        points: Tensor,
        labels: Tensor,
        mask_input: Tensor,
        has_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Decode N prompts.

        Args:
            embedding: [1, 256, G, G], shared by all prompts, or [N, 256, G, G].
            points: [N, K, 2] (x, y) in model-frame pixels.
            labels: [N, K].
            mask_input: [N, 1, 4G, 4G] low-res logits of an earlier answer.
            has_mask: [N], 1 where mask_input is to be used, else 0.

        Returns:
            Low-res logits [N, 4, 4G, 4G] and predicted IoU [N, 4]. Index 0 is the single mask, 1
            to 3 are the three candidates.
        """
        decoder = self.mask_decoder
        output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        image = embedding + self.embed_masks(mask_input, has_mask)
        tokens, grid = self.attend(output_tokens, self.embed_points(points, labels), image)
        logits = self.masks(tokens[:, 1:], self.upscale(grid))
        return logits, decoder.iou_prediction_head(tokens[:, 0])

    def embed_masks(self, mask_input: Tensor, has_mask: Tensor) -> Tensor:
        """[B, 1, 4G, 4G] and [B] -> the term added to the embedding, [B, 256, G, G]."""
        encoder = self.prompt_encoder
        given = has_mask.reshape(-1, 1, 1, 1)
        none = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        return given * encoder.mask_embed(mask_input) + (1 - given) * none

    def embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        """[N, K, 2] and [N, K] -> [N, K, 256]. A box's corners are embedded as points too.

        Source: SAM's ONNX wrapper.
        """
        encoder = self.prompt_encoder
        frame = encoder.input_image_size
        positions = self._encode_positions((points + 0.5) / frame)
        labels = labels[..., None]
        sparse = torch.where(labels == PAD_LABEL, encoder.not_a_point_embed.weight, positions)
        for label, embedding in enumerate(self.label_embeddings()):
            sparse = sparse + (labels == label) * embedding
        return sparse

    def label_embeddings(self) -> list[Tensor]:
        """The terms added to a point for the labels 0 to 3, [1, 256] each."""
        return [embed.weight for embed in self.prompt_encoder.point_embed]

    def attend(self, output_tokens: Tensor, sparse: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Run the two-way transformer.

        Args:
            output_tokens: [T, 256].
            sparse: [N, K, 256], embedded prompts.
            image: [1 or N, 256, G, G].

        Returns:
            The output tokens [N, T, 256] and the image [N, 256, G, G] after attention.
        """
        count = sparse.shape[0]
        cells = self.prompt_encoder.image_embedding_size[0]
        tokens, image = self.mask_decoder.transformer(
            point_embeddings=torch.cat([output_tokens.expand(count, -1, -1), sparse], 1)[:, None],
            image_embeddings=image,
            image_positional_embeddings=self.grid_encoding(),
            attention_similarity=None,
        )
        tokens = tokens[:, 0, : len(output_tokens)]
        return tokens, image[:, 0].transpose(1, 2).reshape(count, -1, cells, cells)

    def upscale(self, grid: Tensor) -> Tensor:
        """[N, 256, G, G] -> [N, 32, 4G, 4G]."""
        decoder = self.mask_decoder
        fine = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(grid)))
        return decoder.activation(decoder.upscale_conv2(fine))

    def masks(self, tokens: Tensor, fine: Tensor) -> Tensor:
        """Tokens [N, 4, 256] and features [N, 32, 4G, 4G] -> logits [N, 4, 4G, 4G]."""
        heads = self.mask_decoder.output_hypernetworks_mlps
        weights = torch.stack([head(tokens[:, k]) for k, head in enumerate(heads)], 1)
        side = fine.shape[-1]
        return (weights @ fine.flatten(2)).reshape(-1, len(heads), side, side)

    def grid_encoding(self) -> Tensor:
        """[1, 256, G, G] positional encoding of the embedding's cell centres."""
        cells = self.prompt_encoder.image_embedding_size[0]
        centre = (torch.arange(cells, dtype=torch.float32) + 0.5) / cells
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        return self._encode_positions(torch.stack([x, y], -1)).permute(2, 0, 1)[None]

    def _encode_positions(self, positions: Tensor) -> Tensor:
        """[..., 2] (x, y) as shares of the frame -> [..., 256] random Fourier features.

        Source: SAM, PositionEmbeddingRandom.
        """
        frequencies = self.prompt_encoder.shared_embedding.positional_embedding
        angle = 2 * math.pi * ((2 * positions - 1) @ frequencies)
        return torch.cat([angle.sin(), angle.cos()], -1)
