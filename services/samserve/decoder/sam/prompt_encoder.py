"""SAM's encoding of prompts: points and box corners to tokens, a mask to rows beside the image.

Source: SAM, PromptEncoder; weights under transformers' names.
"""

from __future__ import annotations

import math

import numpy as np

from samserve.decoder.sam.kernel import TILE, gelu
from samserve.decoder.sam.kernel_weights import EPSILON, Floats, empty, tiled
from samserve.decoder.sam.support import Tensors

PAD_LABEL = -1


class PointEncoder:
    """SAM's encoding of points and box corners."""

    def __init__(self, tensors: Tensors, frame: int) -> None:
        self._frame = np.float32(frame)
        self._frequencies = tensors["prompt_encoder.shared_embedding.positional_embedding"]
        self._kinds = np.stack(
            [tensors[f"prompt_encoder.point_embed.{k}.weight"][0] for k in range(4)]
        )
        self._none = tensors["prompt_encoder.not_a_point_embed.weight"][0]

    def __call__(self, points: Floats, labels: Floats) -> Floats:
        """[K, 2] and [K] -> [K, 256]."""
        placed = self._at((points + np.float32(0.5)) / self._frame)
        kinds = self._kinds[np.clip(labels, 0, 3).astype(int)]
        encoded: Floats = np.where(labels[:, None] == PAD_LABEL, self._none, placed + kinds)
        return encoded

    def grid(self, cells: int) -> Floats:
        """[256, N]: the encoding of the cells' centres."""
        centre = (np.arange(cells, dtype=np.float32) + np.float32(0.5)) / np.float32(cells)
        x, y = np.meshgrid(centre, centre)
        return np.ascontiguousarray(self._at(np.stack([x, y], -1).reshape(-1, 2)).T)

    def _at(self, where: Floats) -> Floats:
        angle = np.float32(2 * math.pi) * ((2 * where - 1) @ self._frequencies)
        return np.concatenate([np.sin(angle), np.cos(angle)], -1)


class MaskEncoder:
    """SAM's encoding of a mask prompt, but for its last layer, which is linear.

    A mask becomes H = 17 rows of features beside the image; matrix [H, 256] is what they add to the image side.
    """

    def __init__(self, tensors: Tensors) -> None:
        name = "prompt_encoder.mask_embed"
        self.none = tensors["prompt_encoder.no_mask_embed.weight"][0]
        self._steps = [
            (
                tensors[f"{name}.conv{k}.weight"].reshape(len(tensors[f"{name}.conv{k}.bias"]), -1),
                *(
                    tensors[f"{name}.{part}"][:, None]
                    for part in (f"conv{k}.bias", f"layer_norm{k}.weight", f"layer_norm{k}.bias")
                ),
            )
            for k in (1, 2)
        ]
        last, bias = tensors[f"{name}.conv3.weight"], tensors[f"{name}.conv3.bias"]
        self.matrix = np.ascontiguousarray(
            np.concatenate([last[:, :, 0, 0].T, (bias - self.none)[None]])
        )

    def __call__(self, logits: Floats | None) -> Floats:
        """[4G, 4G] or None -> its rows, [tiles, H, 64]; none without a mask."""
        if logits is None:
            return empty(0, 0, TILE)
        x: Floats = logits[None].astype(np.float32)
        for weight, bias, norm_weight, norm_bias in self._steps:
            channels, side = len(x), x.shape[1] // 2
            patches = (
                x.reshape(channels, side, 2, side, 2)
                .transpose(0, 2, 4, 1, 3)
                .reshape(4 * channels, -1)
            )
            x = weight @ patches + bias
            x -= x.mean(0)
            x *= norm_weight / np.sqrt(
                np.einsum("cn,cn->n", x, x) / np.float32(len(x)) + np.float32(EPSILON)
            )
            x += norm_bias
            gelu(x)
            x = x.reshape(-1, side, side)
        rows = x.reshape(len(x), -1)
        return tiled(np.concatenate([rows, np.ones((1, rows.shape[1]), np.float32)]))
