"""The options of an answer: mask formats and what comes with each mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from samserve.core.errors import InvalidInput
from samserve.v1 import segmentation_pb2 as pb

MaskFormat: TypeAlias = Literal["rle", "png", "polygons", "bits"]

_FORMATS: dict[str, pb.MaskFormat] = {
    "rle": pb.MASK_FORMAT_RLE,
    "png": pb.MASK_FORMAT_PNG,
    "polygons": pb.MASK_FORMAT_POLYGONS,
    "bits": pb.MASK_FORMAT_BITS,
}


def write_output(
    *,
    formats: Sequence[MaskFormat] = (),
    low_res_logits: bool = False,
    polygon_tolerance: float = 0,
    max_masks: int = 0,
) -> pb.OutputOptions:
    """Convert to the proto. Raises InvalidInput for an unknown format."""
    return pb.OutputOptions(
        formats=[_format_to_proto(name) for name in formats],
        low_res_logits=low_res_logits,
        polygon_tolerance=polygon_tolerance,
        max_masks=max_masks,
    )


def _format_to_proto(name: str) -> pb.MaskFormat:
    if name not in _FORMATS:
        available = ", ".join(_FORMATS)
        raise InvalidInput("formats", f"unknown mask format {name!r}; available: {available}")
    return _FORMATS[name]
