"""Prompts: clicks, boxes and rough masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from samserve.core.arrays import Halves
from samserve.core.errors import InvalidInput
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import types_pb2 as types


@dataclass(frozen=True, slots=True)
class Click:
    """A point in pixels of the oriented image.

    Attributes:
        x: pixels from the left edge.
        y: pixels from the top edge.
        on: whether the point is on the object; False marks the background.
    """

    x: float
    y: float
    on: bool = True


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels of the oriented image; x1 and y1 are exclusive."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt for one object.

    Attributes:
        points: clicks on the object and on the background.
        box: a rectangle around the object.
        mask_input: low-res logits of an earlier mask to refine: its `low_res_logits` as bytes,
            or a float16 array [256, 256].
        multimask: True for three candidate masks, False for one mask; None lets the service choose.
    """

    points: Sequence[Click] = ()
    box: Box | None = None
    mask_input: bytes | Halves = b""
    multimask: bool | None = True


def write_prompt(prompt: Prompt) -> pb.Prompt:
    """Convert to the proto. Raises InvalidInput for a mask_input of the wrong type."""
    box = prompt.box
    return pb.Prompt(
        points=[_write_click(click) for click in prompt.points],
        box=None if box is None else types.Box(x0=box.x0, y0=box.y0, x1=box.x1, y1=box.y1),
        mask_input=_write_logits(prompt.mask_input),
        multimask=prompt.multimask,
    )


def _write_click(click: Click) -> types.Point:
    label = types.POINT_LABEL_FOREGROUND if click.on else types.POINT_LABEL_BACKGROUND
    return types.Point(x=click.x, y=click.y, label=label)


def _write_logits(logits: bytes | Halves) -> bytes:
    """Low-res logits as little-endian fp16, row-major."""
    if isinstance(logits, bytes):
        return logits
    if logits.dtype != np.float16 or logits.ndim != 2:
        raise InvalidInput(
            "mask_input",
            f"invalid mask_input: {logits.dtype} {list(logits.shape)}; expected float16 [256, 256]",
        )
    return logits.astype("<f2", copy=False).tobytes()
