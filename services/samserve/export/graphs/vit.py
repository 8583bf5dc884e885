"""SAM's image encoder as a graph: transformers' modules, with what is constant at one frame worked out beforehand.

transformers looks the relative positions up for every image, by interpolation and gathering; here each block holds its
tables. Attention is written as plain products and one softmax, which every compiler of graphs knows.
"""

from __future__ import annotations

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
            Block(layer, encoder.pos_embed.shape[1]) for layer in encoder.layers
        )
        self.neck = encoder.neck

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return (self.encode(pixels)[0],)

    def encode(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The embedding, and the outputs [B, G, G, C] of the blocks that see the whole image."""
        x = self.patch_embed(pixels) + self.pos_embed
        wholes = []
        for layer in self.layers:
            x = layer(x)
            if layer.whole:
                wholes.append(x)
        return self.neck(x), wholes


class Block(nn.Module):
    """One layer of the encoder: attention within windows or over the whole image, then an MLP."""

    def __init__(self, layer: nn.Module, cells: int) -> None:
        super().__init__()
        self.cells, self.whole = cells, layer.window_size == 0
        self.window = layer.window_size or cells
        self.windows = -(-cells // self.window)  # along each axis
        self.layer_norm1, self.layer_norm2, self.mlp = (
            layer.layer_norm1,
            layer.layer_norm2,
            layer.mlp,
        )
        self.attn = Attention(layer.attn, self.window)

    def forward(self, x: Tensor) -> Tensor:
        """[B, G, G, C] -> the same."""
        x = x + self.joined(self.attn(self.split(self.layer_norm1(x))))
        return x + self.mlp(self.layer_norm2(x))

    def split(self, x: Tensor) -> Tensor:
        """[B, G, G, C] -> windows [B', W, W, C], the last ones padded with zeros."""
        if self.whole:
            return x
        beyond = self.windows * self.window - self.cells
        tiles = F.pad(x, (0, 0, 0, beyond, 0, beyond))
        tiles = tiles.reshape(-1, self.windows, self.window, self.windows, self.window, x.shape[-1])
        return tiles.permute(0, 1, 3, 2, 4, 5).reshape(-1, self.window, self.window, x.shape[-1])

    def joined(self, windows: Tensor) -> Tensor:
        """The reverse of `split`."""
        if self.whole:
            return windows
        side, channels = self.windows * self.window, windows.shape[-1]
        tiles = windows.reshape(-1, self.windows, self.windows, self.window, self.window, channels)
        whole = tiles.permute(0, 1, 3, 2, 4, 5).reshape(-1, side, side, channels)
        return whole[:, : self.cells, : self.cells]


class Attention(nn.Module):
    """Attention over a square of S x S cells, with relative positions along each axis."""

    def __init__(self, attention: nn.Module, side: int) -> None:
        super().__init__()
        self.qkv, self.proj = attention.qkv, attention.proj
        self.side, self.heads, self.scale = side, attention.num_attention_heads, attention.scale
        for axis in "hw":
            distances = attention.get_rel_pos(
                side, side, getattr(attention, f"rel_pos_{axis}")
            )  # [from, to, D]
            self.register_buffer(f"rel_{axis}", distances.detach().transpose(1, 2).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, S, C] -> the same."""
        side, cells, channels = self.side, self.side**2, x.shape[-1]
        depth = channels // self.heads
        query, key, value = (
            self.qkv(x).reshape(-1, cells, 3, self.heads, depth).permute(2, 0, 3, 1, 4).unbind(0)
        )
        grid = query.reshape(-1, side, side, depth)
        down = grid @ self.rel_h
        across = (grid.transpose(1, 2) @ self.rel_w).transpose(1, 2)
        place = (down[..., None] + across[..., None, :]).reshape(-1, self.heads, cells, cells)
        shares = torch.softmax((query * self.scale) @ key.transpose(2, 3) + place, -1)
        return self.proj((shares @ value).transpose(1, 2).reshape(-1, side, side, channels))
