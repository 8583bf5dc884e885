"""nano's network: SAM's own prompt encoder and mask decoder behind a small convolutional image encoder.

Everything but the image encoder is transformers' SAM, with SAM's sizes, under transformers' parameter names.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn
from transformers import SamConfig
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPromptEncoder

from samserve.bundles.bundle import DECODER, ENCODER
from samserve.export.graphs.decoder import DecoderGraph

STRIDE = 16  # model-frame pixels per embedding cell
WIDTH = 256  # channels of the embedding
PARTS = ("vision_encoder", "prompt_encoder", "mask_decoder", "shared_image_embedding")
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of a [B, C, H, W] map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(
            x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias
        ).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Residual block: 7x7 depthwise convolution, norm, then a two-layer MLP on the channels (as ConvNeXt's)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = ChannelNorm(channels)
        self.widen = nn.Conv2d(channels, 3 * channels, 1)
        self.narrow = nn.Conv2d(3 * channels, channels, 1)
        self.scale = nn.Parameter(torch.full((1, channels, 1, 1), 0.2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.narrow(F.gelu(self.widen(self.norm(self.depthwise(x)))))


class NanoEncoder(nn.Module):
    """[B, 3, F, F] normalised RGB -> [B, 256, F/16, F/16]; F is 1024 in service, any multiple of 32 in training.

    Four scales (strides 4, 8, 16, 32) are gathered at stride 16: the fine ones carry outlines, the coarse one context.
    """

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
        x32 = F.interpolate(
            self.stage32(self.down32(x16)), scale_factor=2.0, mode="bilinear", align_corners=False
        )
        return self.norm(self.gather(torch.cat([self.from4(x4), self.from8(x8), x16, x32], 1)))


class Nano(nn.Module):
    """The whole model; parameters other than `vision_encoder` are named as in transformers' SamModel."""

    def __init__(self) -> None:
        super().__init__()
        config = SamConfig(attn_implementation="eager")
        self.vision_encoder = NanoEncoder()
        self.prompt_encoder = SamPromptEncoder(config)
        # transformers draws the frequencies 384 times as large as SAM's authors, which only matters to who trains
        frequencies = self.prompt_encoder.shared_embedding.positional_embedding
        frequencies.data.normal_()
        frequencies.requires_grad_(False)
        self.mask_decoder = SamMaskDecoder(config.mask_decoder_config)
        self.decoder = DecoderGraph(self.prompt_encoder, self.mask_decoder)

    def set_frame(self, frame: int) -> None:
        """Work at `frame` model-frame pixels instead of 1024: the positional encoding knows no resolution."""
        self.prompt_encoder.input_image_size = frame
        self.prompt_encoder.image_embedding_size = (frame // STRIDE, frame // STRIDE)


def load_weights(model: Nano, tensors: dict[str, Tensor]) -> None:
    """Load a checkpoint's tensors; every parameter must be there."""
    given = dict(tensors)
    given["prompt_encoder.shared_embedding.positional_embedding"] = given.pop(
        "shared_image_embedding.positional_embedding"
    )
    missing, unexpected = model.load_state_dict(given, strict=False)
    left = [name for name in missing if not name.startswith("decoder.")]
    if left or unexpected:
        raise ValueError(
            f"this is not a checkpoint of nano: missing {left}, unexpected {unexpected}"
        )


def graph_weights(graph: Path) -> dict[str, Tensor]:
    """An exported graph's initialisers by their names in PyTorch, those kept as fp16 made fp32 again."""
    initializers = onnx.load(str(graph)).graph.initializer
    return {
        i.name.removesuffix(".half"): torch.from_numpy(numpy_helper.to_array(i).astype(np.float32))
        for i in initializers
    }


def bundle_weights(bundle: Path) -> dict[str, Tensor]:
    """A bundle of nano read back as a checkpoint."""
    weights = {**graph_weights(bundle / ENCODER), **graph_weights(bundle / DECODER)}
    weights["shared_image_embedding.positional_embedding"] = weights.pop(
        "prompt_encoder.shared_embedding.positional_embedding"
    )
    return {name: tensor for name, tensor in weights.items() if name.partition(".")[0] in PARTS}
