"""What the client library is asked with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import types_pb2 as types


@dataclass(frozen=True, slots=True)
class Click:
    """A point in pixels of the oriented image; `on`: whether it is on the object."""

    x: float
    y: float
    on: bool = True


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels of the oriented image."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True)
class Prompt:
    """One object asked for. mask_input: a former mask's low_res_logits. multimask: three candidates, or one mask;
    None: as the service sees fit."""

    points: Sequence[Click] = ()
    box: Box | None = None
    mask_input: bytes = b""
    multimask: bool | None = True


def write_prompt(prompt: Prompt) -> pb.Prompt:
    """Translate to the wire."""
    on, beside = types.POINT_LABEL_FOREGROUND, types.POINT_LABEL_BACKGROUND
    box = prompt.box
    return pb.Prompt(
        points=[types.Point(x=c.x, y=c.y, label=on if c.on else beside) for c in prompt.points],
        box=None if box is None else types.Box(x0=box.x0, y0=box.y0, x1=box.x1, y1=box.y1),
        mask_input=prompt.mask_input,
        multimask=prompt.multimask,
    )
