"""The image encoder of the shipped nano.

encoder.py has its successor. Until a bundle of that network is shipped, the tests and benchmarks
that compare the shipped bundle with PyTorch use this one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 256  # channels of the embedding


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of a [B, C, H, W] map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        channels_last = x.permute(0, 2, 3, 1)
        normal = F.layer_norm(channels_last, self.weight.shape, self.weight, self.bias)
        return normal.permute(0, 3, 1, 2)


class Block(nn.Module):
    """Residual block: 7x7 depthwise convolution, norm, then a two-layer MLP on the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = ChannelNorm(channels)
        self.widen = nn.Conv2d(channels, 3 * channels, 1)
        self.narrow = nn.Conv2d(3 * channels, channels, 1)
        self.scale = nn.Parameter(torch.full((1, channels, 1, 1), 0.2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.narrow(F.gelu(self.widen(self.norm(self.depthwise(x)))))


class ShippedEncoder(nn.Module):
    """[B, 3, F, F] normalised RGB -> [B, 256, F/16, F/16]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 40, 8, stride=4, padding=2)
        self.stage4 = Block(40)
        self.down8 = nn.Conv2d(40, 96, 2, stride=2)
        self.stage8 = nn.Sequential(Block(96), Block(96))
        self.down16 = nn.Conv2d(96, 192, 2, stride=2)
        self.stage16 = nn.Sequential(*(Block(192) for _ in range(4)))
        self.down32 = nn.Conv2d(192, 224, 2, stride=2)
        self.stage32 = nn.Sequential(Block(224), Block(224), Block(224))
        self.from4 = nn.Conv2d(40, 80, 4, stride=4)
        self.from8 = nn.Conv2d(96, 128, 2, stride=2)
        self.gather = nn.Conv2d(80 + 128 + 192 + 224, WIDTH, 1)
        self.norm = ChannelNorm(WIDTH)

    def forward(self, pixels: Tensor) -> Tensor:
        x4 = self.stage4(self.stem(pixels))
        x8 = self.stage8(self.down8(x4))
        x16 = self.stage16(self.down16(x8))
        x32 = self.stage32(self.down32(x16))
        x32 = F.interpolate(x32, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.norm(self.gather(torch.cat([self.from4(x4), self.from8(x8), x16, x32], 1)))
