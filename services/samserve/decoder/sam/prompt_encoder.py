"""SAM's encoding of prompts: points and box corners to tokens, a mask to rows beside the image.

Source: SAM, PromptEncoder. Names of weights are transformers'.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from samserve.core.arrays import Array, Floats
from samserve.decoder.sam.kernel import TILE, gelu
from samserve.decoder.sam.kernel_weights import EPSILON, empty, to_tiles
from samserve.decoder.sam.support import Tensors

PAD_LABEL = -1
POINT_KINDS = 4  # background, foreground, a box's first and second corner


class PointEncoder:
    """Encodes points and box corners."""

    def __init__(self, tensors: Tensors, frame: int) -> None:
        """Take the weights.

        Args:
            tensors: fp32.
            frame: Side of the frame in pixels.
        """
        kinds = [
            tensors[f"prompt_encoder.point_embed.{kind}.weight"][0] for kind in range(POINT_KINDS)
        ]
        self._kinds = np.stack(kinds)
        self._padding = tensors["prompt_encoder.not_a_point_embed.weight"][0]
        self._frequencies = tensors["prompt_encoder.shared_embedding.positional_embedding"]
        self._frame = np.float32(frame)

    def __call__(self, points: Floats, labels: Floats) -> Floats:
        """Encode points.

        Args:
            points: [K, 2], (x, y) in frame pixels.
            labels: [K].

        Returns:
            [K, 256].
        """
        positions = self._encode((points + np.float32(0.5)) / self._frame)
        kinds = self._kinds[np.clip(labels, 0, POINT_KINDS - 1).astype(int)]
        is_padding = labels[:, None] == PAD_LABEL
        tokens: Floats = np.where(is_padding, self._padding, positions + kinds)
        return tokens

    def grid(self, side: int) -> Floats:
        """Return the encodings of the centres of side x side cells, [256, N]."""
        centres = (np.arange(side, dtype=np.float32) + np.float32(0.5)) / np.float32(side)
        x, y = np.meshgrid(centres, centres)
        positions = np.stack([x, y], -1).reshape(-1, 2)
        return np.ascontiguousarray(self._encode(positions).T)

    def _encode(self, positions: Array) -> Floats:
        """[M, 2], (x, y) from 0 to 1 -> [M, 256]."""
        angles = np.float32(2 * math.pi) * ((2 * positions - 1) @ self._frequencies)
        return np.concatenate([np.sin(angles), np.cos(angles)], -1)


@dataclass(frozen=True, slots=True, eq=False)
class _Downscaling:
    """A convolution of 2 x 2 pixels as a product, and the LayerNorm after it.

    Attributes:
        weight: [channels, 4 x input channels].
        bias: [channels, 1].
        norm_weight: [channels, 1].
        norm_bias: [channels, 1].
    """

    weight: Floats
    bias: Floats
    norm_weight: Floats
    norm_bias: Floats

    def __call__(self, x: Floats) -> Floats:
        """[C, 2 S, 2 S] -> [channels, S, S]."""
        # The four pixels of each patch become channels: [4 C, S x S].
        channels = len(x)
        side = x.shape[1] // 2
        patches = x.reshape(channels, side, 2, side, 2).transpose(0, 2, 4, 1, 3)
        y: Floats = self.weight @ patches.reshape(4 * channels, -1) + self.bias

        # LayerNorm over the channels, in place.
        y -= y.mean(0)
        variance = np.einsum("cn,cn->n", y, y) / np.float32(len(y))
        y *= self.norm_weight / np.sqrt(variance + np.float32(EPSILON))
        y += self.norm_bias

        gelu(y)
        return y.reshape(-1, side, side)


class MaskEncoder:
    """Encodes a mask prompt up to the last layer, which is linear and left to the kernel.

    A mask becomes H = 17 rows beside the image: 16 features and a constant.

    Attributes:
        matrix: [H, 256], what the rows add to the image side.
        no_mask: [256], what a prompt without a mask adds to every cell.
    """

    def __init__(self, tensors: Tensors) -> None:
        """Take the weights, fp32."""
        name = "prompt_encoder.mask_embed"
        self._downscalings = [_downscaling(tensors, name, number) for number in (1, 2)]

        # `x` contains no_mask already (see KernelDecoder.prepare), so the constant takes it away.
        last_weight = tensors[f"{name}.conv3.weight"]
        last_bias = tensors[f"{name}.conv3.bias"]
        self.no_mask = tensors["prompt_encoder.no_mask_embed.weight"][0]
        constant = last_bias - self.no_mask
        self.matrix: Floats = np.ascontiguousarray(
            np.concatenate([last_weight[:, :, 0, 0].T, constant[None]])
        )

    def __call__(self, logits: Floats | None) -> Floats:
        """Encode a mask.

        Args:
            logits: [4G, 4G], low-res, or None.

        Returns:
            [tiles, H, 64]; without a mask an array without rows.
        """
        if logits is None:
            return empty(0, 0, TILE)

        x = logits[None].astype(np.float32)
        for downscaling in self._downscalings:
            x = downscaling(x)

        rows = x.reshape(len(x), -1)
        constant = np.ones((1, rows.shape[1]), np.float32)
        return to_tiles(np.concatenate([rows, constant]))


def _downscaling(tensors: Tensors, name: str, number: int) -> _Downscaling:
    bias = tensors[f"{name}.conv{number}.bias"]
    return _Downscaling(
        weight=tensors[f"{name}.conv{number}.weight"].reshape(len(bias), -1),
        bias=bias[:, None],
        norm_weight=tensors[f"{name}.layer_norm{number}.weight"][:, None],
        norm_bias=tensors[f"{name}.layer_norm{number}.bias"][:, None],
    )
