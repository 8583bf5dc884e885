"""Holding an exported bundle's graphs against PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from samserve.bundles.bundle import DECODER, ENCODER
from samserve.core.geometry import STRETCH
from samserve.export.checkpoints.checkpoint import Checkpoint
from samserve.export.reference import Floats, Reference, best_first, graph_inputs, prompts

TOLERANCE = 1e-3  # beyond which a bundle is not kept
HALF_STEP = 2.0**-11  # what rounding to fp16 may change of a number, as a share of it


class ExportMismatch(RuntimeError):
    """An exported graph that does not compute what PyTorch does; the message names the output."""


def differences(path: Path, checkpoint: Checkpoint) -> dict[str, float]:
    """The largest difference of each output from PyTorch's on one picture and a few prompts, as a share of the largest
    magnitude; for the embedding, which is fp16, what rounding to fp16 does not explain.
    """
    reference = Reference(checkpoint)
    image = picture(checkpoint.frame)
    valid = (
        (checkpoint.frame,) * 2
        if checkpoint.resize == STRETCH
        else (checkpoint.frame * 2 // 3, checkpoint.frame)
    )
    wanted = reference.embed(image, valid)
    given = {"image": image[None], "valid": np.array([valid], np.int32)}
    found = dict(zip(wanted, _session(path / ENCODER).run(list(wanted), given), strict=True))
    largest = {name: beyond_rounding(found[name], wanted[name]) for name in wanted}
    return largest | _decoder_differences(path / DECODER, checkpoint, reference, wanted)


def _decoder_differences(
    path: Path, checkpoint: Checkpoint, reference: Reference, image: dict[str, Floats]
) -> dict[str, float]:
    low_res = 4 * image["embedding"].shape[-1]
    session = _session(path)
    largest = {"low_res_logits": 0.0, "predicted_iou": 0.0}
    for prompt in prompts(checkpoint.frame, low_res):
        wanted = reference.decode(**prompt)
        inputs = image | graph_inputs(checkpoint.family, prompt, low_res)
        logits, ious = session.run(list(largest), inputs)
        for name, got, true in zip(largest, best_first(logits[0], ious[0]), wanted, strict=True):
            differ = np.abs(got - true).max() / np.abs(true).max()
            largest[name] = float(
                np.maximum(largest[name], differ)
            )  # which, unlike max, keeps a NaN
    return largest


def picture(frame: int) -> NDArray[np.uint8]:
    """[frame, frame, 3]: soft blots of colour, the same every time."""
    blots = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    soft = F.interpolate(blots, (frame, frame), mode="bicubic").clamp(0, 1)
    levels: NDArray[np.uint8] = (
        (255 * soft[0]).permute(1, 2, 0).to(torch.uint8).contiguous().numpy()
    )
    return levels


def beyond_rounding(got: NDArray[np.float16], wanted: Floats) -> float:
    """The largest difference that rounding to fp16 does not explain, as a share of the largest magnitude."""
    beyond = np.abs(got.astype(np.float32) - wanted) - HALF_STEP * np.abs(wanted)
    return float(np.maximum(beyond, 0).max() / np.abs(wanted).max())


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
