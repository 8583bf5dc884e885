"""Compares an exported bundle's graphs with PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F

from samserve.bundles.bundle import DECODER, ENCODER
from samserve.core.arrays import Bytes, Floats, Halves
from samserve.core.family import TRUNK
from samserve.core.geometry import STRETCH
from samserve.export.checkpoints.checkpoint import Checkpoint
from samserve.export.reference import Reference, best_first, graph_inputs, prompts

TOLERANCE = 1e-3  # largest difference of a bundle that is kept
HALF_STEP = 2.0**-11  # largest relative error of rounding to fp16


class ExportMismatch(RuntimeError):
    """An exported graph differs from PyTorch; the message names the output."""


def differences(path: Path, checkpoint: Checkpoint) -> dict[str, float]:
    """Compare both graphs with PyTorch on one image and a few prompts.

    Args:
        path: The bundle's folder.
        checkpoint: That the bundle was exported from.

    Returns:
        For each output the largest difference, as a share of its largest magnitude. The embedding
        is fp16; for it, differences that rounding explains do not count.
    """
    reference = Reference(checkpoint)
    frame = checkpoint.frame
    image = sample_image(frame)
    stretch = checkpoint.family.core.resize == STRETCH
    valid = (frame, frame) if stretch else (frame * 2 // 3, frame)

    expected = reference.embed(image, valid)
    inputs = {"image": image[None], "valid": np.array([valid], np.int32)}
    tensors = open_session(path / ENCODER).run(list(expected), inputs)
    largest = {
        name: beyond_rounding(tensor, expected[name])
        for name, tensor in zip(expected, tensors, strict=True)
    }
    return largest | _decoder_differences(path / DECODER, checkpoint, reference, expected)


def _decoder_differences(
    path: Path, checkpoint: Checkpoint, reference: Reference, image: dict[str, Floats]
) -> dict[str, float]:
    low_res = 4 * image["embedding"].shape[-1]
    image = {name: tensor for name, tensor in image.items() if name != TRUNK}
    session = open_session(path)
    largest = {"low_res_logits": 0.0, "predicted_iou": 0.0}

    for prompt in prompts(checkpoint.frame, low_res):
        expected = reference.decode(**prompt)
        inputs = image | graph_inputs(checkpoint.family.core, prompt, low_res)
        logits, ious = session.run(list(largest), inputs)

        outputs = best_first(logits[0], ious[0])
        for name, output, wanted in zip(largest, outputs, expected, strict=True):
            difference = np.abs(output - wanted).max() / np.abs(wanted).max()
            largest[name] = float(np.maximum(largest[name], difference))  # keeps NaN; max does not

    return largest


def sample_image(frame: int) -> Bytes:
    """[frame, frame, 3] RGB: soft blots of colour, the same every time."""
    blots = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    soft = F.interpolate(blots, (frame, frame), mode="bicubic").clamp(0, 1)
    levels: Bytes = (255 * soft[0]).permute(1, 2, 0).to(torch.uint8).contiguous().numpy()
    return levels


def beyond_rounding(tensor: Halves, expected: Floats) -> float:
    """Return the largest difference that rounding to fp16 does not explain.

    It is given as a share of the largest magnitude.
    """
    excess = np.abs(tensor.astype(np.float32) - expected) - HALF_STEP * np.abs(expected)
    return float(np.maximum(excess, 0).max() / np.abs(expected).max())


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Load a graph, without warnings."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
