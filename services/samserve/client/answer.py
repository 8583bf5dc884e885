"""Answers of the services: masks and embedded images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from samserve.client.image import ImageInput
from samserve.core.arrays import Bools, Floats, Halves
from samserve.core.cache_status import CacheStatus
from samserve.core.errors import SamserveError
from samserve.core.geometry import Size
from samserve.core.rle import decode_rle, read_rle
from samserve.core.runs import Runs
from samserve.v1 import embedding_pb2
from samserve.v1 import segmentation_pb2 as pb
from samserve.wire.convert import cache_status_from_proto


@dataclass(frozen=True, slots=True, eq=False)
class Polygon:
    """One connected part of a mask.

    A ring is an array [N, 2] of corners (x, y) in pixels of the oriented image. Corners lie on the
    edges of pixels, as those of a box do.

    Attributes:
        exterior: the outer ring.
        holes: the rings of the holes.
    """

    exterior: Floats
    holes: list[Floats]


@dataclass(frozen=True, slots=True)
class Mask:
    """One mask. A field that was not requested is empty.

    Attributes:
        size: width and height of the oriented image.
        rle: COCO's compressed counts.
        predicted_iou: the model's estimate of the IoU with the object, about 0 to 1.
        stability_score: IoU of the mask cut at logit +1 with the mask cut at -1.
        area: pixels of the mask.
        bbox: x0, y0, x1, y1 in pixels of the oriented image; x1 and y1 are exclusive.
        low_res_logits: fp16 logits for `Prompt.mask_input`, to refine this mask.
        png: a PNG of one bit a pixel.
        polygons: the mask's connected parts.
        bits: one bit a pixel, row by row; each row is padded to whole bytes, and the leftmost
            pixel is a byte's highest bit.
        candidate: number among the decoder's outputs, 0 to 2: the order of SAM's own library.
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
    candidate: int = 0

    def array(self) -> Bools:
        """The mask as bool [height, width], decoded from its RLE."""
        return decode_rle(self.rle, self.size.height, self.size.width)

    def runs(self) -> Runs:
        """The places where the mask changes, decoded from its RLE: much less than its pixels."""
        return read_rle(self.rle, self.size.height, self.size.width)

    def low_res_array(self) -> Halves:
        """The low-res logits as float16 [256, 256].

        Raises:
            ValueError: the answer has no logits; request them with low_res_logits=True.
        """
        if not self.low_res_logits:
            raise ValueError(
                "the answer has no low-res logits; request them with low_res_logits=True"
            )
        logits = np.frombuffer(self.low_res_logits, "<f2")
        side = math.isqrt(logits.size)
        return logits.reshape(side, side)

    def as_json(self) -> dict[str, Any]:
        """The mask's RLE and scores, as `samserve segment --json` prints them."""
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
    """An image whose embedding is in the cache.

    Attributes:
        image_id: SHA-256 of the encoded bytes.
        model_version: the version of the model that embedded it.
        size: width and height of the oriented image.
        cache: whether the embedding was a cache hit.
        timings_ms: milliseconds by stage.
    """

    image_id: str
    model_version: str
    size: Size
    cache: CacheStatus
    timings_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class Answer:
    """The masks of one image.

    Attributes:
        image_id: SHA-256 of the encoded bytes.
        model_version: the version of the model that embedded it.
        size: width and height of the oriented image.
        cache: whether the embedding was a cache hit.
        timings_ms: milliseconds by stage.
        results: for each prompt its masks, best first.
    """

    image_id: str
    model_version: str
    size: Size
    cache: CacheStatus
    timings_ms: dict[str, float]
    results: list[list[Mask]]

    @property
    def masks(self) -> list[Mask]:
        """The first prompt's masks, best first."""
        return self.results[0]

    def as_json(self) -> dict[str, Any]:
        """The first prompt's answer, as `samserve segment --json` prints it."""
        return {
            "image_id": self.image_id,
            "model_version": self.model_version,
            "width": self.size.width,
            "height": self.size.height,
            "cache": self.cache.name,
            "timings_ms": {stage: round(ms, 3) for stage, ms in self.timings_ms.items()},
            "masks": [mask.as_json() for mask in self.masks],
        }


@dataclass(frozen=True, slots=True)
class Model:
    """A model that the decoder serves.

    Attributes:
        name: to use in requests.
        version: a digest of weights, preprocessing and precision.
        side: of the square that images are resized into, in pixels.
        low_res: side of the low-res logits.
        stretch: whether images are stretched to the whole square; otherwise they keep their shape.
        concepts: whether it answers `find`.
        decoder_bytes: what a caller downloads to compute the decoder by itself; 0 if it cannot.
        decoder_note: why it cannot.
    """

    name: str
    version: str
    side: int
    low_res: int
    stretch: bool = False
    concepts: bool = False
    decoder_bytes: int = 0
    decoder_note: str = ""


@dataclass(frozen=True, slots=True)
class BulkResult:
    """Result for one input image.

    Attributes:
        image: the image as it was given.
        answer: the embedded image, or None if it failed.
        error: the image's own error, or None if it did not fail.
    """

    image: ImageInput
    answer: EmbedAnswer | None = None
    error: SamserveError | OSError | None = None


def read_embed_answer(
    answer: embedding_pb2.EmbedResponse | pb.InteractResponse.Opened,
) -> EmbedAnswer:
    """Convert from the proto."""
    return EmbedAnswer(
        image_id=answer.image.image_id,
        model_version=answer.image.model_version,
        size=Size(answer.image.width, answer.image.height),
        cache=cache_status_from_proto(answer.cache),
        timings_ms={timing.stage: timing.milliseconds for timing in answer.timings},
    )


def read_models(answer: pb.ListModelsResponse) -> list[Model]:
    """Convert from the proto."""
    return [
        Model(
            each.name,
            each.version,
            each.side,
            each.low_res,
            each.stretch,
            each.concepts,
            each.decoder_bytes,
            each.decoder_note,
        )
        for each in answer.models
    ]


def read_answer(answer: pb.PredictResponse) -> Answer:
    """Convert from the proto."""
    size = Size(answer.image.width, answer.image.height)

    return Answer(
        image_id=answer.image.image_id,
        model_version=answer.image.model_version,
        size=size,
        cache=cache_status_from_proto(answer.cache),
        timings_ms={timing.stage: timing.milliseconds for timing in answer.timings},
        results=[[read_mask(mask, size) for mask in result.masks] for result in answer.results],
    )


def read_mask(mask: pb.Mask, size: Size) -> Mask:
    """Convert from the proto; `size` is the image's."""
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
        polygons=[_read_polygon(polygon) for polygon in mask.polygons],
        bits=mask.bits,
        candidate=mask.candidate,
    )


def _read_polygon(polygon: pb.Polygon) -> Polygon:
    return Polygon(_read_ring(polygon.exterior), [_read_ring(hole) for hole in polygon.holes])


def _read_ring(ring: pb.Ring) -> Floats:
    return np.array(ring.xy, np.float32).reshape(-1, 2)
