"""Compares an exported text encoder and concept head with PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from samserve.bundles.bundle import CONCEPTS, TEXT
from samserve.core.arrays import Floats
from samserve.export.checkpoints.checkpoint import Checkpoint
from samserve.export.compare import beyond_rounding, open_session, sample_image
from samserve.export.graphs.concepts import OUTPUTS
from samserve.export.graphs.examples import PADDING

LENGTHS = (3, 5, 9)  # tokens of the phrases
EXAMPLES = (0, 1, 3)  # of each
UNSURE = 2  # instances at the end of the list, which rounding may exchange for others


@torch.no_grad()
def concept_differences(path: Path, checkpoint: Checkpoint) -> dict[str, float]:
    """Compare both graphs with transformers on one image, three phrases and some examples.

    Args:
        path: The bundle's folder.
        checkpoint: That the bundle was exported from.

    Returns:
        For each output the largest difference, as a share of its largest magnitude, beyond what
        rounding to fp16 explains.
    """
    concepts = checkpoint.family.concepts
    if concepts is None:
        return {}
    judge = concepts.reference(checkpoint.build())
    tokens = concepts.tokens(checkpoint.config)
    trunk = judge.trunk(_pixels(checkpoint)).half()
    features = judge.features(trunk.float())

    # Phrases.
    random = torch.Generator().manual_seed(0)
    words = concepts.words(checkpoint.config)
    ids = torch.randint(0, words, (len(LENGTHS), tokens), generator=random)
    expected_text = [judge.text(ids[i : i + 1, :count]) for i, count in enumerate(LENGTHS)]
    (text,) = open_session(path / TEXT).run(["text"], {"ids": ids.int().numpy()})
    largest = {
        "text": max(
            beyond_rounding(text[i : i + 1, :count], expected_text[i].numpy())
            for i, count in enumerate(LENGTHS)
        )
    }

    # Concepts. Both sides get the same rounded text and trunk.
    text_mask = torch.arange(tokens)[None] < torch.tensor(LENGTHS)[:, None]
    boxes = torch.rand(len(LENGTHS), max(EXAMPLES), 4, generator=random) * 0.3 + 0.2
    labels = torch.randint(0, 2, boxes.shape[:2], generator=random)
    given = torch.arange(max(EXAMPLES))[None] < torch.tensor(EXAMPLES)[:, None]
    inputs = {
        "trunk": trunk.numpy(),
        "text": text,
        "text_mask": text_mask.float().numpy(),
        "examples": boxes.numpy(),
        "example_labels": torch.where(given, labels, PADDING).int().numpy(),
    }
    outputs = open_session(path / CONCEPTS).run(list(OUTPUTS), inputs)
    for i, (count, shown) in enumerate(zip(LENGTHS, EXAMPLES, strict=True)):
        phrase = torch.from_numpy(text[i : i + 1, :count]).float()
        wanted = judge.find(features, phrase, boxes[i : i + 1, :shown], labels[i : i + 1, :shown])
        found = dict(zip(OUTPUTS, (output[i] for output in outputs), strict=True))
        for name, difference in instance_differences(found, wanted).items():
            largest[name] = float(np.maximum(largest.get(name, 0.0), difference))
    return largest


def instance_differences(
    found: dict[str, Any], wanted: tuple[Tensor, Tensor, Tensor, Tensor]
) -> dict[str, float]:
    """Compare one concept's instances; those of nearly equal scores may have changed places."""
    scores, presence, boxes, masks = (tensor.numpy() for tensor in wanted)
    best = np.argsort(-scores)[: len(found["scores"]) - UNSURE]
    apart = np.abs(found["scores"][None] - scores[best, None]) + np.abs(
        found["boxes"][None] - boxes[best, None]
    ).max(-1)
    match = apart.argmin(1)
    return {
        "scores": _share(found["scores"][match], scores[best]),
        "presence": _share(found["presence"], presence),
        "boxes": _share(found["boxes"][match], boxes[best]),
        "masks": beyond_rounding(found["masks"][match], masks[best]),
    }


def _share(got: Floats, expected: Floats) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def _pixels(checkpoint: Checkpoint) -> Tensor:
    """The sample image, [1, 3, frame, frame] normalised."""
    levels = torch.from_numpy(sample_image(checkpoint.frame)).float()
    mean, std = torch.tensor(checkpoint.pixel_mean), torch.tensor(checkpoint.pixel_std)
    return ((levels - mean) / std).permute(2, 0, 1)[None]
