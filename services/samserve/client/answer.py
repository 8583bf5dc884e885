"""What the client library answers with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samserve.core.geometry import Size
from samserve.core.rle import decode_rle
from samserve.v1 import embedding_pb2
from samserve.v1 import segmentation_pb2 as pb
from samserve.wire.metadata import cache_status_from_proto

Corners = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Polygon:
    """A connected part of a mask. Rings: [N, 2] (x, y) of corners in pixels of the oriented image, as a box's are."""

    exterior: Corners
    holes: list[Corners]


@dataclass(frozen=True, slots=True)
class Mask:
    """One mask. rle: COCO's compressed counts; bbox: x0, y0, x1, y1 in pixels of the oriented image, x1, y1 exclusive;
    low_res_logits: to refine it with, in `Prompt.mask_input`; png: one bit a pixel; bits: rows of whole bytes, a byte's
    highest bit the leftmost pixel. What was not asked for is empty.
    """

    size: Size
    rle: bytes
    predicted_iou: float
    stability_score: float
    area: int
    bbox: tuple[int, int, int, int]
    low_res_logits: bytes
    png: bytes
    polygons: list[Polygon]
    bits: bytes

    def array(self) -> NDArray[np.bool_]:
        """The mask as bool [height, width], from its RLE."""
        return decode_rle(self.rle, self.size.height, self.size.width)

    def as_json(self) -> dict[str, Any]:
        return {
            "rle": {
                "size": [self.size.height, self.size.width],
                "counts": self.rle.decode("ascii"),
            },
            "predicted_iou": self.predicted_iou,
            "stability_score": self.stability_score,
            "area": self.area,
            "bbox": list(self.bbox),
        }


@dataclass(frozen=True, slots=True)
class EmbedAnswer:
    """An image that is in the cache. cache: HIT, MISS or COALESCED; timings: stage -> milliseconds."""

    image_id: str
    model_version: str
    size: Size
    cache: str
    timings_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class Answer:
    """The masks of one image: per prompt, best first. cache, timings: as in EmbedAnswer."""

    image_id: str
    model_version: str
    size: Size
    cache: str
    timings_ms: dict[str, float]
    results: list[list[Mask]]

    @property
    def masks(self) -> list[Mask]:
        """The first prompt's masks, best first."""
        return self.results[0]

    def as_json(self) -> dict[str, Any]:
        """As `samserve segment --json` prints it."""
        return {
            "image_id": self.image_id,
            "model_version": self.model_version,
            "width": self.size.width,
            "height": self.size.height,
            "cache": self.cache,
            "timings_ms": {stage: round(ms, 3) for stage, ms in self.timings_ms.items()},
            "masks": [mask.as_json() for mask in self.masks],
        }


def read_embed_answer(
    answer: embedding_pb2.EmbedResponse | pb.InteractResponse.Opened,
) -> EmbedAnswer:
    """Translate from the wire."""
    return EmbedAnswer(
        image_id=answer.image.image_id,
        model_version=answer.image.model_version,
        size=Size(answer.image.width, answer.image.height),
        cache=cache_status_from_proto(answer.cache).name,
        timings_ms={t.stage: t.milliseconds for t in answer.timings},
    )


def read_answer(answer: pb.PredictResponse) -> Answer:
    """Translate from the wire."""
    size = Size(answer.image.width, answer.image.height)
    return Answer(
        image_id=answer.image.image_id,
        model_version=answer.image.model_version,
        size=size,
        cache=cache_status_from_proto(answer.cache).name,
        timings_ms={t.stage: t.milliseconds for t in answer.timings},
        results=[[_mask(mask, size) for mask in result.masks] for result in answer.results],
    )


def _mask(mask: pb.Mask, size: Size) -> Mask:
    box = mask.bbox
    return Mask(
        size=size,
        rle=mask.rle.counts,
        predicted_iou=mask.predicted_iou,
        stability_score=mask.stability_score,
        area=mask.area,
        bbox=(int(box.x0), int(box.y0), int(box.x1), int(box.y1)),
        low_res_logits=mask.low_res_logits,
        png=mask.png,
        polygons=[
            Polygon(_corners(p.exterior), [_corners(hole) for hole in p.holes])
            for p in mask.polygons
        ],
        bits=mask.bits,
    )


def _corners(ring: pb.Ring) -> Corners:
    return np.array(ring.xy, np.float32).reshape(-1, 2)
