"""The reference: transformers' SamModel in PyTorch, with the shipped bundle's weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from checkpoints_sam3 import hf_sam3
from samserve.bundles.bundle import Bundle, load_bundle
from samserve.bundles.names import SHIPPED
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.threads import Threads
from samserve.export.checkpoints.checkpoint import Checkpoint
from samserve.export.checkpoints.read import read_checkpoint
from samserve.export.convert import convert
from samserve.training.encoder import PIXEL_MEAN, PIXEL_STD, NanoEncoder
from samserve.training.network import graph_weights
from transformers import SamConfig, SamModel

SHARED = "shared_image_embedding.positional_embedding"


@dataclass
class Reference:
    """transformers' model with nano's encoder; the model's own image encoder never runs."""

    model: SamModel
    encoder: NanoEncoder

    @torch.no_grad()
    def embed(self, pixels: np.ndarray, height: int, width: int) -> torch.Tensor:
        """uint8 [1024, 1024, 3] and the size of its valid part -> [1, 256, 64, 64]."""
        normal = (
            torch.from_numpy(pixels.astype(np.float32)) - torch.tensor(PIXEL_MEAN)
        ) / torch.tensor(PIXEL_STD)
        padded = torch.zeros_like(normal)
        padded[:height, :width] = normal[:height, :width]
        return self.encoder(padded.permute(2, 0, 1)[None])

    @torch.no_grad()
    def decode(
        self, embedding: torch.Tensor, **prompt: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return low-res logits [4, 256, 256] and predicted IoUs [4], the single mask first."""
        parts = [
            self.model(image_embeddings=embedding, multimask_output=m, **prompt)
            for m in (False, True)
        ]
        logits = torch.cat([part.pred_masks[0, 0] for part in parts])
        return logits, torch.cat([part.iou_scores[0, 0] for part in parts])


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return load_bundle(SHIPPED / "nano")


@pytest.fixture(scope="session")
def sam3_exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Bundle]:
    """A small SAM 3 of random weights, and its bundle."""
    path = tmp_path_factory.mktemp("sam3")
    checkpoint = read_checkpoint(hf_sam3(path / "folder"))
    convert(checkpoint, "sam3", path / "bundle", print)
    return checkpoint, load_bundle(path / "bundle")


@pytest.fixture(scope="session")
def decoder(bundle: Bundle) -> MaskDecoder:
    return MaskDecoder(bundle, Threads(2))


@pytest.fixture(scope="session")
def reference(bundle: Bundle) -> Reference:
    stump = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 32}
    model = SamModel(SamConfig(vision_config=stump | {"num_pos_feats": 128})).eval()
    tensors = graph_weights(bundle.decoder)
    tensors[SHARED] = tensors["prompt_encoder.shared_embedding.positional_embedding"]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert all(name.startswith("vision_encoder.") for name in missing)
    encoder = NanoEncoder().eval()
    own = {
        n.removeprefix("vision_encoder."): t
        for n, t in graph_weights(bundle.encoder).items()
        if n.startswith("vision")
    }
    encoder.load_state_dict(own)
    return Reference(model, encoder)
