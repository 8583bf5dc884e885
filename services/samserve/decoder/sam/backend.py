"""The interface of a decoder backend, and the value that it decodes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from samserve.core.arrays import Floats
from samserve.core.embedding import Embedding
from samserve.decoder.sam.prepared_image import PreparedImage, ReadyImage
from samserve.decoder.sam.threads import ThreadShare


@dataclass(frozen=True, slots=True, eq=False)
class DecodeRequest:
    """One prompt, as a decoder backend takes it.

    Attributes:
        points: [K, 2], (x, y) in frame pixels: points, box corners and padding.
        labels: [K], 1 and 0 for points, 2 and 3 for a box's corners, -1 for padding.
        mask_input: [4G, 4G], low-res logits, or None; G is the embedding's side in cells.
        wanted: Numbers of the masks: 0 is the single mask, 1 to 3 are the candidates.
        least_iou: The masks' logits may be left out if no wanted mask has a higher predicted IoU.
    """

    points: Floats
    labels: Floats
    mask_input: Floats | None
    wanted: list[int]
    least_iou: float = -math.inf


class DecoderBackend(Protocol):
    """Computes a model's decoder, for prompts of up to `most_points` points."""

    @property
    def most_points(self) -> int:
        """How many points a request may have, box corners and padding included."""

    def prepare(self, embedding: Embedding, threads: ThreadShare) -> PreparedImage:
        """Do the work that all prompts on an image share."""

    def decode(
        self, image: ReadyImage, request: DecodeRequest, threads: ThreadShare
    ) -> tuple[Floats, Floats]:
        """Decode one prompt.

        Returns:
            Low-res logits of the wanted masks, [M, 4G, 4G], and all four predicted IoUs, [4]. M is
            0 if the masks were left out.
        """
