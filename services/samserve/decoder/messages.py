"""Translates the parts that several requests and answers of the decoder share. Pure."""

from __future__ import annotations

from typing import Any, TypeAlias

import grpc.aio
import numpy as np

from samserve.core.caller import current_caller
from samserve.core.errors import InvalidInput
from samserve.core.geometry import Size
from samserve.core.image_request import ImageRequest
from samserve.core.limits import MAX_FORMATS, RequestLimits, check_count, check_string
from samserve.core.rings import Ring
from samserve.decoder.masks.write import MaskAnswer, Output
from samserve.decoder.prompt import BACKGROUND, FOREGROUND, PromptInput
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import types_pb2 as types

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

LABELS = {
    types.POINT_LABEL_UNSPECIFIED: FOREGROUND,
    types.POINT_LABEL_FOREGROUND: FOREGROUND,
    types.POINT_LABEL_BACKGROUND: BACKGROUND,
}


def read_image(
    request: pb.PredictRequest | pb.InteractRequest.Open | pb.GenerateMasksRequest | pb.FindRequest,
) -> ImageRequest:
    """Return the image that a request of the current caller is about. Raises InvalidInput."""
    return ImageRequest(
        owner=current_caller().owner,
        model=check_string(request.model, "model"),
        data=request.data if request.WhichOneof("image") == "data" else None,
        image_id=request.ref.image_id,
        expected_image_id=check_string(request.expected_image_id, "expected_image_id"),
        model_version=check_string(request.ref.model_version, "ref.model_version"),
    )


def read_prompt(prompt: pb.Prompt, field: str, limits: RequestLimits) -> PromptInput:
    """Return a prompt, checked for its size only. Raises InvalidInput; `field` is its name."""
    check_count(len(prompt.points), limits.points, f"{field}.points", "points")
    points = [(point.x, point.y) for point in prompt.points]
    labels = [LABELS.get(point.label) for point in prompt.points]
    if None in labels:
        index = labels.index(None)
        raise _unknown_label(prompt.points[index].label, f"{field}.points[{index}].label")

    box = prompt.box
    return PromptInput(
        points=np.array(points, np.float32).reshape(-1, 2),
        labels=np.array(labels, np.float32),
        box=np.array([box.x0, box.y0, box.x1, box.y1], np.float32)
        if prompt.HasField("box")
        else None,
        mask_input=prompt.mask_input,
        multimask=prompt.multimask if prompt.HasField("multimask") else None,
    )


def _unknown_label(label: int, field: str) -> InvalidInput:
    return InvalidInput(
        field, f"{field}: unknown label {label}; available: 1 (foreground), 2 (background)"
    )


def read_output(options: pb.OutputOptions, limits: RequestLimits) -> Output:
    """Return what the caller wants of each mask. Raises InvalidInput."""
    check_count(len(options.formats), MAX_FORMATS, "output.formats", "formats")
    formats = set(options.formats) or {pb.MASK_FORMAT_RLE}
    unknown = formats - set(pb.MaskFormat.values())
    if unknown:
        raise InvalidInput(
            "output.formats",
            f"output.formats: unknown format {min(unknown)}; "
            "available: 1 (RLE), 2 (PNG), 3 (polygons), 4 (bits)",
        )
    return Output(
        rle=bool(formats & {pb.MASK_FORMAT_RLE, pb.MASK_FORMAT_UNSPECIFIED}),
        png=pb.MASK_FORMAT_PNG in formats,
        polygons=pb.MASK_FORMAT_POLYGONS in formats,
        bits=pb.MASK_FORMAT_BITS in formats,
        low_res_logits=options.low_res_logits,
        polygon_tolerance=options.polygon_tolerance,
        max_masks=options.max_masks,
        max_bytes=limits.answer_bytes,
    )


def mask_to_proto(mask: MaskAnswer, size: Size) -> pb.Mask:
    """Return a mask of an image of this size as a message."""
    box = mask.box
    return pb.Mask(
        predicted_iou=mask.predicted_iou,
        stability_score=mask.stability_score,
        area=mask.area,
        bbox=types.Box(x0=box.x0, y0=box.y0, x1=box.x1, y1=box.y1),
        rle=None
        if mask.rle is None
        else types.Rle(height=size.height, width=size.width, counts=mask.rle),
        png=mask.png or b"",
        low_res_logits=mask.low_res_logits or b"",
        polygons=[
            pb.Polygon(exterior=_ring(polygon.exterior), holes=map(_ring, polygon.holes))
            for polygon in mask.polygons or ()
        ],
        bits=mask.bits or b"",
        candidate=mask.candidate,
    )


def _ring(ring: Ring) -> pb.Ring:
    return pb.Ring(xy=ring.ravel().tolist())
