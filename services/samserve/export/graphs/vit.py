"""SAM's image encoder as a graph: transformers' modules, with constants computed in advance.

transformers interpolates and gathers the relative positions for every image; here each block holds
its table. Attention is written as plain products and one softmax, which every graph compiler
supports.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SamModel


class VitEncoder(nn.Module):
    """[B, 3, frame, frame] normalised RGB -> the embedding [B, 256, G, G]."""

    def __init__(self, model: SamModel) -> None:
        super().__init__()
        encoder = model.vision_encoder
        self.patch_embed = encoder.patch_embed
        self.pos_embed = encoder.pos_embed
        self.layers = nn.ModuleList(
            Block(layer, encoder.pos_embed.shape[1], Attention) for layer in encoder.layers
        )
        self.neck = encoder.neck

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return (self.encode(pixels)[0],)

    def encode(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode images.

        Returns:
            The embedding, and the outputs [B, G, G, C] of the blocks with global attention.
        """
        x = self.patch_embed(pixels) + self.pos_embed
        global_features = []
        for layer in self.layers:
            x = layer(x)
            if layer.is_global:
                global_features.append(x)
        return self.neck(x), global_features


class Block(nn.Module):
    """One layer of the encoder: attention within windows or over the whole image, then an MLP."""

    def __init__(
        self, layer: nn.Module, cells: int, attention: Callable[[nn.Module, int], nn.Module]
    ) -> None:
        """
        Args:
            layer: transformers' layer.
            cells: Side of the whole image, G.
            attention: transformers' layer and the side of its windows -> their attention.
        """
        super().__init__()
        self.cells = cells
        self.is_global = layer.window_size == 0
        self.window = layer.window_size or cells
        self.windows = -(-cells // self.window)  # along each axis
        self.layer_norm1 = layer.layer_norm1
        self.layer_norm2 = layer.layer_norm2
        self.mlp = layer.mlp
        self.attn = attention(layer, self.window)

    def forward(self, x: Tensor) -> Tensor:
        """[B, G, G, C] -> the same shape."""
        x = x + self.join(self.attn(self.split(self.layer_norm1(x))))
        return x + self.mlp(self.layer_norm2(x))

    def split(self, x: Tensor) -> Tensor:
        """[B, G, G, C] -> windows [B', W, W, C]; the last ones are padded with zeros."""
        if self.is_global:
            return x
        padding = self.windows * self.window - self.cells
        tiles = F.pad(x, (0, 0, 0, padding, 0, padding)) if padding else x
        tiles = tiles.reshape(-1, self.windows, self.window, self.windows, self.window, x.shape[-1])
        return tiles.permute(0, 1, 3, 2, 4, 5).reshape(-1, self.window, self.window, x.shape[-1])

    def join(self, windows: Tensor) -> Tensor:
        """The inverse of `split`."""
        if self.is_global:
            return windows
        side = self.windows * self.window
        channels = windows.shape[-1]
        tiles = windows.reshape(-1, self.windows, self.windows, self.window, self.window, channels)
        padded = tiles.permute(0, 1, 3, 2, 4, 5).reshape(-1, side, side, channels)
        return padded[:, : self.cells, : self.cells]


class Attention(nn.Module):
    """Attention over a square of S x S cells, with relative positions along each axis."""

    def __init__(self, layer: nn.Module, side: int) -> None:
        """
        Args:
            layer: transformers' layer.
            side: Of the square, S.
        """
        super().__init__()
        attention = layer.attn
        self.qkv = attention.qkv
        self.proj = attention.proj
        self.side = side
        self.heads = attention.num_attention_heads
        self.scale = attention.scale
        for axis in "hw":
            table = getattr(attention, f"rel_pos_{axis}")
            distances = attention.get_rel_pos(side, side, table)  # [from, to, D]
            self.register_buffer(f"rel_{axis}", distances.detach().transpose(1, 2).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, S, C] -> the same shape."""
        side = self.side
        cells = side**2
        channels = x.shape[-1]
        depth = channels // self.heads
        query, key, value = (
            self.qkv(x).reshape(-1, cells, 3, self.heads, depth).permute(2, 0, 3, 1, 4).unbind(0)
        )

        # Relative positions: one product along each axis, added for every pair of cells.
        grid = query.reshape(-1, side, side, depth)
        vertical = grid @ self.rel_h
        horizontal = (grid.transpose(1, 2) @ self.rel_w).transpose(1, 2)
        positions = vertical[..., None] + horizontal[..., None, :]
        positions = positions.reshape(-1, self.heads, cells, cells)

        attention = torch.softmax((query * self.scale) @ key.transpose(2, 3) + positions, -1)
        return self.proj((attention @ value).transpose(1, 2).reshape(-1, side, side, channels))
