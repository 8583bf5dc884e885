"""nano's network: SAM's prompt encoder and mask decoder behind a small image encoder.

All but the image encoder is transformers' SAM, with SAM's sizes, under transformers' names.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from transformers import SamConfig
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPromptEncoder

from samserve.bundles.bundle import DECODER, ENCODER
from samserve.export.graphs.decoder import PAD_LABEL, DecoderGraph
from samserve.training.encoder import STRIDE, NanoEncoder

FRAME = 1024  # pixels of the model frame's side in service
DECODER_PARTS = ("prompt_encoder", "mask_decoder")
FREQUENCIES = "prompt_encoder.shared_embedding.positional_embedding"
SHARED_FREQUENCIES = "shared_image_embedding.positional_embedding"  # transformers' other name


class WindowDecoder(DecoderGraph):
    """SAM's decoder on a square window of the model frame.

    Positions are those of the whole frame: a small window trains the decoder for 1024 pixels.
    """

    origin = (0, 0)  # x, y of the window's corner in embedding cells

    def set_window(self, side: int, origin: tuple[int, int]) -> None:
        """Work on `side` frame pixels from `origin` (x, y in cells)."""
        cells = side // STRIDE
        self.prompt_encoder.image_embedding_size = (cells, cells)
        self.origin = origin

    def grid_encoding(self) -> Tensor:
        """[1, 256, G, G] positional encoding of the window's cell centres."""
        cells = self.prompt_encoder.image_embedding_size[0]
        steps = torch.arange(cells, dtype=torch.float32) + 0.5
        x0, y0 = self.origin
        y, x = torch.meshgrid(steps + y0, steps + x0, indexing="ij")
        return self._encode_positions(torch.stack([x, y], -1) * STRIDE / FRAME).permute(2, 0, 1)[
            None
        ]


class Nano(nn.Module):
    """The whole model."""

    def __init__(self) -> None:
        super().__init__()
        config = SamConfig(attn_implementation="eager")
        self.vision_encoder = NanoEncoder()
        self.prompt_encoder = SamPromptEncoder(config)
        self.prompt_encoder.shared_embedding.positional_embedding.requires_grad_(False)
        self.mask_decoder = SamMaskDecoder(config.mask_decoder_config)
        self.decoder = WindowDecoder(self.prompt_encoder, self.mask_decoder)

    def encode(self, pixels: Tensor) -> Tensor:
        """[B, 3, W, W] normalised RGB -> embedding [B, 256, W/16, W/16]."""
        embedding: Tensor = self.vision_encoder(
            pixels.contiguous(memory_format=torch.channels_last)
        )
        return embedding

    def decode(
        self, embedding: Tensor, points: Tensor, labels: Tensor, logits: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Decode N prompts on a window.

        Args:
            embedding: [N, 256, G, G], or [1, 256, G, G] for all.
            points: [N, K, 2] x, y in window pixels.
            labels: [N, K], SAM's.
            logits: [N, 1, 4G, 4G] of a former answer.

        Returns:
            Logits [N, 4, 4G, 4G] and predicted IoU [N, 4]; index 0 is the single mask.
        """
        count, side = len(points), 4 * embedding.shape[-1]
        origin = torch.tensor(self.decoder.origin, dtype=torch.float32) * STRIDE
        placed = torch.where(labels[..., None] == PAD_LABEL, points, points + origin)
        given = torch.zeros(1) if logits is None else torch.ones(count)
        before = torch.zeros(1, 1, side, side) if logits is None else logits
        answer: tuple[Tensor, Tensor] = self.decoder(embedding, placed, labels, before, given)
        return answer

    def tensors(self) -> dict[str, Tensor]:
        """The weights by transformers' names."""
        kept = {
            name: tensor.contiguous()
            for name, tensor in self.state_dict().items()
            if not name.startswith("decoder.")
        }
        kept[SHARED_FREQUENCIES] = kept.pop(FREQUENCIES)
        return kept

    def load(self, tensors: dict[str, Tensor], *, parts: tuple[str, ...] = ()) -> None:
        """Load weights by transformers' names; with `parts`, only those parts.

        Raises:
            ValueError: a tensor is missing or unknown.
        """
        given = dict(tensors)
        given[FREQUENCIES] = given.pop(SHARED_FREQUENCIES)
        if parts:
            given = {name: t for name, t in given.items() if name.partition(".")[0] in parts}
        missing, unexpected = self.load_state_dict(given, strict=False)
        wanted = parts or ("vision_encoder", *DECODER_PARTS)
        left = [name for name in missing if name.partition(".")[0] in wanted]
        if left or unexpected:
            raise ValueError(f"not a checkpoint of nano: missing {left}, unknown {unexpected}")


def graph_weights(graph: Path) -> dict[str, Tensor]:
    """An exported graph's initialisers by their names in PyTorch, as fp32."""
    return {
        i.name.removesuffix(".half"): torch.from_numpy(numpy_helper.to_array(i).astype(np.float32))
        for i in onnx.load(str(graph)).graph.initializer
    }


def bundle_weights(bundle: Path) -> dict[str, Tensor]:
    """The weights of a bundle of nano, by transformers' names."""
    weights = {**graph_weights(bundle / ENCODER), **graph_weights(bundle / DECODER)}
    weights[SHARED_FREQUENCIES] = weights.pop(FREQUENCIES)
    parts = ("vision_encoder", *DECODER_PARTS, "shared_image_embedding")
    return {name: t for name, t in weights.items() if name.partition(".")[0] in parts}
