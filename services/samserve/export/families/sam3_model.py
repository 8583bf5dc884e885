"""SAM 3 as one module: transformers has it in several models, each with a part of the weights.

Names are those of a file that transformers wrote of its `Sam3VideoModel`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.models.sam3.modeling_sam3 import (
    Sam3Model,
    Sam3VisionNeck,
    Sam3ViTLayer,
    Sam3ViTRotaryEmbedding,
)
from transformers.models.sam3_tracker.modeling_sam3_tracker import (
    Sam3TrackerMaskDecoder,
    Sam3TrackerModel,
    Sam3TrackerPositionalEmbedding,
    Sam3TrackerPromptEncoder,
)
from transformers.models.sam3_tracker_video.modeling_sam3_tracker_video import (
    Sam3TrackerVideoModel,
)

from samserve.core.family import TRUNK

UNUSED_LEVELS = 1  # of the necks, at the coarse end


class Sam3Tracker(nn.Module):
    """What clicks need beside the trunk and the tracker's neck."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        prompt, decoder = config.prompt_encoder_config, config.mask_decoder_config
        decoder._attn_implementation = config._attn_implementation
        self.shared_image_embedding = Sam3TrackerPositionalEmbedding(prompt)
        self.prompt_encoder = Sam3TrackerPromptEncoder(prompt)
        self.mask_decoder = Sam3TrackerMaskDecoder(decoder)
        self.no_memory_embedding = nn.Parameter(torch.zeros(1, 1, prompt.hidden_size))


class Sam3(nn.Module):
    """All of SAM 3 that still images need."""

    def __init__(self, config: PretrainedConfig) -> None:
        """Build the parts; `config` is a `Sam3VideoConfig`."""
        super().__init__()
        self.config = config
        self.detector_model = Sam3Model(config.detector_config)
        self.tracker_neck = Sam3VisionNeck(config.detector_config.vision_config)
        self.tracker_model = Sam3Tracker(config.tracker_config)

    @property
    def prompt_encoder(self) -> nn.Module:
        """Of the clicks."""
        return self.tracker_model.prompt_encoder

    @property
    def mask_decoder(self) -> nn.Module:
        """Of the clicks."""
        return self.tracker_model.mask_decoder


def restore(model: Sam3) -> None:
    """Compute the places of cells and tokens, which no file holds."""
    for module in model.modules():
        if isinstance(module, Sam3ViTLayer):
            places = module.precompute_positions(module.config, module.window_size)
            module.position_ids = nn.Buffer(places, persistent=False)
        elif isinstance(module, Sam3ViTRotaryEmbedding):
            frequencies, _ = module.compute_axial_rope_parameters(module.config)
            module.inv_freq = nn.Buffer(frequencies, persistent=False)
            module.original_inv_freq = nn.Buffer(frequencies.clone(), persistent=False)

    embeddings = model.detector_model.text_encoder.text_model.embeddings
    tokens = embeddings.position_embedding.weight.shape[0]
    embeddings.position_ids = nn.Buffer(torch.arange(tokens)[None], persistent=False)


class Judge:
    """transformers' own models of the clicks, made of the same modules.

    Images are encoded by `Sam3TrackerVideoModel`: `Sam3TrackerModel` adds the "no memory" embedding
    to a level that it then drops (docs/decisions/0039). Prompts are decoded by the latter.
    """

    def __init__(self, model: Sam3) -> None:
        tracker = model.config.tracker_config
        with torch.device("meta"):
            self.video = Sam3TrackerVideoModel(tracker)
            self.still = Sam3TrackerModel(tracker)

        own = model.tracker_model
        for judge in (self.video, self.still):
            judge.vision_encoder.backbone = model.detector_model.vision_encoder.backbone
            judge.vision_encoder.neck = model.tracker_neck
            judge.prompt_encoder = own.prompt_encoder
            judge.mask_decoder = own.mask_decoder
            judge.shared_image_embedding = own.shared_image_embedding
            judge.no_memory_embedding = own.no_memory_embedding
            judge.eval()

    def get_image_embeddings(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return the embedding's tensors, and the trunk, of one image."""
        fine_0, fine_1, embedding = self.video.get_image_embeddings(pixels)
        hidden = self.video.vision_encoder.backbone(pixels).last_hidden_state
        side = embedding.shape[-1]
        trunk = hidden.transpose(1, 2).reshape(1, -1, side, side)
        return {"embedding": embedding, "fine_1": fine_1, "fine_0": fine_0, TRUNK: trunk}

    def __call__(self, **inputs: Any) -> Any:
        """Decode a prompt, as `Sam3TrackerModel` does."""
        return self.still(**inputs)
