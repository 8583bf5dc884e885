"""SAM 3's image encoder as a graph: a ViT with rotary positions, and the necks' levels.

transformers rotates pairs of neighbouring channels. Here the channels of queries and keys are
sorted, evens first, so that a rotation exchanges two halves; their products do not change. All that
no image changes is computed once. Attention is plain products and one softmax.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samserve.export.graphs.vit import Block


class RopeVit(nn.Module):
    """[B, 3, frame, frame] normalised RGB -> the trunk [B, C, G, G]."""

    def __init__(self, backbone: nn.Module) -> None:
        """Take transformers' `Sam3ViTModel`."""
        super().__init__()
        config = backbone.config
        cells = config.image_size // config.patch_size
        embeddings = backbone.embeddings
        self.projection = embeddings.patch_embeddings.projection
        self.layer_norm = backbone.layer_norm
        self.layers = nn.ModuleList(Block(layer, cells, RopeAttention) for layer in backbone.layers)
        table = embeddings.position_embeddings.detach()
        place = embeddings._tile_position_embeddings(table, cells, cells)
        self.register_buffer("place", place.reshape(1, cells, cells, -1).contiguous())

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.projection(pixels).permute(0, 2, 3, 1) + self.place
        x = self.layer_norm(x)
        for layer in self.layers:
            x = layer(x)
        return x.permute(0, 3, 1, 2)


class RopeAttention(nn.Module):
    """Attention over a square of S x S cells, with rotary positions."""

    def __init__(self, layer: nn.Module, side: int) -> None:
        """
        Args:
            layer: transformers' layer.
            side: Of the square, S.
        """
        super().__init__()
        attention = layer.attention
        self.side = side
        self.heads = attention.num_attention_heads
        self.depth = attention.head_dim
        self.scale = attention.scaling
        self.proj = attention.o_proj

        parts = [attention.q_proj, attention.k_proj, attention.v_proj]
        order = evens_first(self.heads, self.depth)
        rows = [order, order, torch.arange(len(order))]
        self.qkv = nn.Linear(len(order), 3 * len(order))
        self.qkv.weight = _fixed(
            torch.cat([p.weight.detach()[r] for p, r in zip(parts, rows, strict=True)])
        )
        self.qkv.bias = _fixed(
            torch.cat([p.bias.detach()[r] for p, r in zip(parts, rows, strict=True)])
        )

        cos, sin = layer.rotary_emb(attention.q_proj.weight, layer.position_ids)  # [1, S * S, D]
        half = self.depth // 2
        self.register_buffer("cos", cos[0, :, ::2].repeat(1, 2).contiguous())
        signs = torch.cat([-torch.ones(half), torch.ones(half)])
        self.register_buffer("sin", (sin[0, :, ::2].repeat(1, 2) * signs).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, S, C] -> the same shape."""
        cells = self.side**2
        query, key, value = (
            self.qkv(x)
            .reshape(-1, cells, 3, self.heads, self.depth)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        query, key = self.rotate(query), self.rotate(key)
        attention = torch.softmax((query * self.scale) @ key.transpose(2, 3), -1)
        joined = (attention @ value).transpose(1, 2)
        return self.proj(joined.reshape(-1, self.side, self.side, self.heads * self.depth))

    def rotate(self, x: Tensor) -> Tensor:
        """[B, heads, S * S, D] -> the same, turned by each cell's place."""
        half = self.depth // 2
        exchanged = torch.cat([x[..., half:], x[..., :half]], -1)
        return x * self.cos + exchanged * self.sin


def evens_first(heads: int, depth: int) -> Tensor:
    """Return the numbers of all channels, each head's even ones before its odd ones."""
    channels = torch.arange(heads * depth).reshape(heads, depth // 2, 2)
    return channels.transpose(1, 2).reshape(-1)


def _fixed(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.contiguous(), requires_grad=False)
