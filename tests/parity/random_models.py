"""transformers' models with random weights, and bundles of their decoders.

The weights are drawn so that every part of a model matters: attention is neither flat nor limited
to one cell, and the norms have weights and biases. fp16 cannot hold them exactly.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from samserve.bundles.bundle import WEIGHTS, Bundle, load_bundle
from samserve.bundles.names import SHIPPED
from samserve.core.geometry import Frame
from transformers import Sam2Config, Sam2Model, Sam2VisionConfig, SamConfig, SamModel
from transformers.models.sam2.configuration_sam2 import Sam2HieraDetConfig

SIDE = 64
STUMP = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "mlp_dim": 32,
    "num_pos_feats": 128,
}
STUMP_2 = Sam2VisionConfig(
    backbone_config=Sam2HieraDetConfig(
        hidden_size=8,
        num_attention_heads=1,
        blocks_per_stage=[1, 1, 1, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 1, 1],
        global_attention_blocks=[],
    ),
    backbone_channel_list=[64, 32, 16, 8],
)


def sam(seed: int) -> SamModel:
    return _drawn(SamModel(SamConfig(vision_config=STUMP)), seed)


def sam2(seed: int) -> Sam2Model:
    return _drawn(Sam2Model(Sam2Config(vision_config=STUMP_2)), seed)


@torch.no_grad()
def _drawn(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    random = torch.Generator().manual_seed(seed)
    for part in ("prompt_encoder", "mask_decoder"):
        for name, weight in getattr(model, part).state_dict().items():
            noise = torch.randn(weight.shape, generator=random)
            if name.endswith("positional_embedding"):
                weight.copy_(noise)
            elif weight.dim() == 1:
                weight.copy_(0.1 * noise + ("norm" in name and name.endswith("weight")))
            elif "_token" in name.split(".")[0] or (
                "embed" in name.split(".")[0] and weight.dim() == 2
            ):
                weight.copy_(noise / 2)
            else:
                inputs = len(weight) if name.startswith("upscale") else weight[0].numel()
                weight.copy_(noise / inputs**0.5)
    shared = model.prompt_encoder.shared_embedding.positional_embedding
    model.shared_image_embedding.positional_embedding.copy_(shared)
    return model.eval()


def bundle_of(model: torch.nn.Module, family: str, path: Path) -> Bundle:
    """Return a bundle that is enough for a MaskDecoder; it has no graphs."""
    tensors = {
        f"{part}.{name}": weight.numpy()
        for part in ("prompt_encoder", "mask_decoder")
        for name, weight in getattr(model, part).state_dict().items()
    }
    save_file(tensors, path / WEIGHTS)
    shapes = {name: tensor.shape for name, tensor in image_of(family, 0).items()}
    nano = replace(load_bundle(SHIPPED / "nano"), path=path, family=family, embedding=shapes)
    return (
        replace(nano, frame=Frame(1024, True), mask_frame=Frame(256, True))
        if family == "sam2"
        else nano
    )


def image_of(family: str, seed: int) -> dict[str, np.ndarray]:
    """Return random maps in the shapes of the family's embeddings, fp16."""
    random = np.random.default_rng(seed)
    tensors = {
        "embedding": random.normal(size=(256, 16, 16)).repeat(4, 1).repeat(4, 2).astype(np.float16)
    }
    if family == "sam2":
        tensors["fine_1"] = random.normal(size=(64, 2 * SIDE, 2 * SIDE)).astype(np.float16)
        tensors["fine_0"] = random.normal(size=(32, 4 * SIDE, 4 * SIDE)).astype(np.float16)
    return tensors
