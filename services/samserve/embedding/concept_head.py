"""A model's concept head, run by Triton."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from samserve.bundles.triton_concepts import part_names
from samserve.core.arrays import Array, Floats, Halves
from samserve.core.concept import Example
from samserve.core.detections import FLOOR, Detections
from samserve.core.geometry import Size
from samserve.embedding.encoder import ConceptSpec, TritonEncoder

AT_ONCE = 8  # concepts in one run of the head
PADDING = -1  # label of an example that stands for nothing


@dataclass(frozen=True, slots=True)
class Phrase:
    """What the head needs of a concept: features of its tokens, [T, C], and its examples."""

    features: Halves
    examples: tuple[Example, ...]


class TritonHead:
    """Runs text encoders and concept heads."""

    def __init__(self, encoder: TritonEncoder) -> None:
        """Create a head that uses the encoder's connection."""
        self._encoder = encoder

    async def embed_text(self, model: str, spec: ConceptSpec, tokens: Sequence[int]) -> Halves:
        """Return the features of a phrase's tokens, fp16 [T, C].

        Raises:
            Overloaded, DeadlinePassed, Unavailable: As `TritonEncoder.encode` does.
        """
        ids = np.full((1, spec.tokens), tokens[-1], np.int32)
        ids[0, : len(tokens)] = tokens
        _, name = part_names(model)
        answer = await self._encoder.infer(name, {"ids": ids}, ["text"])
        features: Halves = answer["text"][0, : len(tokens)]
        return features

    async def find(
        self, model: str, spec: ConceptSpec, trunk: Halves, size: Size, phrases: Sequence[Phrase]
    ) -> list[Detections]:
        """Find concepts on one image, `AT_ONCE` in a run.

        Args:
            model: Name of the model.
            spec: Of its head.
            trunk: Of the image, fp16 [C, G, G].
            size: Of the source image.
            phrases: What to look for.

        Raises:
            Overloaded, DeadlinePassed, Unavailable: As `TritonEncoder.encode` does.
        """
        name, _ = part_names(model)
        outputs = ["scores", "presence", "boxes", "masks"]
        found: list[Detections] = []
        for start in range(0, len(phrases), AT_ONCE):
            inputs = _inputs(trunk, size, phrases[start : start + AT_ONCE], spec.tokens)
            answer = await self._encoder.infer(name, inputs, outputs)
            rows = zip(*(answer[output] for output in outputs), strict=True)
            found += [_detections(*row, size=size) for row in rows]
        return found


def _inputs(trunk: Halves, size: Size, phrases: Sequence[Phrase], tokens: int) -> dict[str, Array]:
    """Return the tensors of one run; shorter phrases and lists of examples are padded."""
    count, width = len(phrases), phrases[0].features.shape[1]
    most = max(1, *(len(phrase.examples) for phrase in phrases))
    text = np.zeros((count, tokens, width), np.float16)
    text_mask = np.zeros((count, tokens), np.float32)
    examples = np.full((count, most, 4), 0.5, np.float32)
    labels = np.full((count, most), PADDING, np.int32)

    for row, phrase in enumerate(phrases):
        text[row, : len(phrase.features)] = phrase.features
        text_mask[row, : len(phrase.features)] = 1
        for column, example in enumerate(phrase.examples):
            x0, y0, x1, y1 = example.box
            examples[row, column] = [
                (x0 + x1) / (2 * size.width),
                (y0 + y1) / (2 * size.height),
                (x1 - x0) / size.width,
                (y1 - y0) / size.height,
            ]
            labels[row, column] = 0 if example.negative else 1

    return {
        "trunk": trunk[None],
        "text": text,
        "text_mask": text_mask,
        "examples": examples,
        "example_labels": labels,
    }


def _detections(
    scores: Floats, presence: Floats, boxes: Floats, masks: Halves, *, size: Size
) -> Detections:
    """Return the instances above the floor."""
    edges = np.array([size.width, size.height, size.width, size.height], np.float32)
    every = Detections(
        presence=float(presence),
        scores=scores,
        boxes=boxes.clip(0, 1) * edges,
        logits=masks,
        cut_off=True,
    )
    return every.above(FLOOR)
