"""SAM 3 as one module: transformers has it in several models, each with a part of the weights.

Names are those of a file that transformers wrote of its `Sam3VideoModel`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from types import SimpleNamespace
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


class ConceptJudge:
    """transformers' own search for concepts, one concept at a time.

    transformers pools examples with torchvision, which is not installed: the search then has an
    equivalent of its own in Python.
    """

    def __init__(self, model: Sam3) -> None:
        self.detector = model.detector_model

    def trunk(self, pixels: Tensor) -> Tensor:
        """Return the trunk of an image [1, 3, frame, frame]: [1, C, G, G]."""
        hidden = self.detector.vision_encoder(pixels).last_hidden_state
        side = math.isqrt(hidden.shape[1])
        return hidden.transpose(1, 2).reshape(1, -1, side, side)

    def features(self, trunk: Tensor) -> Any:
        """Return the features of an image, from its trunk."""
        levels, places = self.detector.vision_encoder.neck(trunk)
        return SimpleNamespace(
            fpn_hidden_states=levels,
            fpn_position_encoding=places,
            last_hidden_state=None,
            hidden_states=None,
            attentions=None,
        )

    def text(self, ids: Tensor) -> Tensor:
        """Token ids [1, T] -> features [1, T, C]."""
        mask = torch.ones_like(ids)
        features: Tensor = self.detector.get_text_features(ids, mask).pooler_output
        return features

    def find(
        self, features: Any, text: Tensor, boxes: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Find one concept.

        Args:
            features: Of the image.
            text: [1, T, C], features of the tokens.
            boxes: [1, B, 4] examples, centre and size; B may be 0.
            labels: [1, B], 1 or 0.

        Returns:
            Scores [Q], presence, boxes [Q, 4], logits [Q, L, L].
        """
        modeling = sys.modules[Sam3Model.__module__]
        torchvision = SimpleNamespace(ops=SimpleNamespace(roi_align=roi_align))
        modeling.torchvision = torchvision  # type: ignore[attr-defined]
        answer = self.detector(
            vision_embeds=features,
            text_embeds=SimpleNamespace(pooler_output=text),
            attention_mask=torch.ones(text.shape[:2], dtype=torch.long),
            input_boxes=boxes if boxes.numel() else None,
            input_boxes_labels=labels if boxes.numel() else None,
        )
        presence = answer.presence_logits.sigmoid()[0, 0]
        scores = answer.pred_logits.sigmoid()[0] * presence
        return scores, presence, answer.pred_boxes[0], answer.pred_masks[0]


def roi_align(features: Tensor, boxes: Sequence[Tensor], bins: int) -> Tensor:
    """Average each box in bins, as torchvision's function of this name does by default.

    Args:
        features: [B, C, H, W].
        boxes: For each image [M, 4] corners in cells.
        bins: Along a side.

    Returns:
        [all M, C, bins, bins].
    """
    pooled = [
        torch.einsum(
            "ih,chw,jw->cij", _bins(y0, y1, bins, height), image, _bins(x0, x1, bins, width)
        )
        for image, corners in zip(features, boxes, strict=True)
        for height, width in [image.shape[1:]]
        for x0, y0, x1, y1 in corners.tolist()
    ]
    return torch.stack(pooled)


def _bins(low: float, high: float, bins: int, cells: int) -> Tensor:
    """Weights of the cells in each bin of one side, [bins, cells], sample by sample."""
    size = max(high - low, 1.0) / bins
    samples = math.ceil(size)
    weights = torch.zeros(bins, cells)
    for index in range(bins):
        for sample in range(samples):
            at = low + size * (index + (sample + 0.5) / samples)
            if not -1 <= at <= cells:
                continue
            inside = min(max(at, 0.0), cells - 1.0)
            first = min(int(inside), cells - 1)
            rest = inside - first
            weights[index, first] += (1 - rest) / samples
            if rest:
                weights[index, first + 1] += rest / samples
    return weights
