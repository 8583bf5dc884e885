"""Exported checkpoints with random weights in one stack: clients get the answers of PyTorch."""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import hf_folder, meta_sam
from PIL import Image
from samserve.client import Box, Click, Client, Prompt
from samserve.export.checkpoints.read import read_checkpoint
from samserve.export.compare import sample_image
from samserve.export.convert import convert
from samserve.export.reference import Reference
from samserve.local.stack import Stack, StackOptions

TOLERANCE = 2e-3  # of the largest logit: the embedding and the logits travel as fp16
MADE = {
    "sam": lambda path: meta_sam(path / "sam.pth"),
    "sam2": lambda path: hf_folder(path / "sam2", "sam2", "mini"),
    "sam-hq": lambda path: hf_folder(path / "hq", "sam_hq", "mini"),
}
LARGE = {
    "sam-vit-b": lambda path: meta_sam(path / "b.pth", "b"),
    "sam-vit-l": lambda path: meta_sam(path / "l.pth", "l"),
    "sam2.1-tiny": lambda path: hf_folder(path / "tiny", "sam2", "tiny"),
}
WANTED = os.environ.get("SAMSERVE_LARGE", "").split(
    ","
)  # names; each takes minutes, and ViT-L most of 24 GB
SERVED = {name: LARGE[name] for name in WANTED if name in LARGE} or MADE


@dataclass(frozen=True)
class Exported:
    """A running stack, and the checkpoints that its models come from."""

    stack: Stack
    checkpoints: dict[str, Path]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    folder = tmp_path_factory.mktemp("exported")
    checkpoints = {}
    for name, make in SERVED.items():
        checkpoints[name] = make(folder)
        convert(read_checkpoint(checkpoints[name]), name, folder / "bundles" / name, print)
    options = StackOptions(models=tuple(SERVED), bundles=folder / "bundles", cache_coding="exact")
    stack = Stack(options, folder)
    stack.start()
    yield Exported(stack, checkpoints)
    stack.stop()


@pytest.mark.parametrize("model", SERVED)
def test_masks_through_the_whole_stack_are_pytorchs(exported: Exported, model: str) -> None:
    checkpoint = read_checkpoint(exported.checkpoints[model])
    reference, side = Reference(checkpoint), checkpoint.frame
    pixels = sample_image(side)
    reference.embed(pixels, (side, side))
    photo = io.BytesIO()
    Image.fromarray(pixels).save(photo, "PNG")
    x, y, box = 0.5 * side, 0.4 * side, [0.2 * side, 0.25 * side, 0.8 * side, 0.7 * side]
    prompts = [
        Prompt([Click(x, y)]),
        Prompt(box=Box(*box)),
        Prompt([Click(x, y, on=False)], Box(*box)),
    ]
    points = {"input_points": torch.tensor([[[[x, y]]]]), "input_labels": torch.tensor([[[1]]])}
    boxes = {"input_boxes": torch.tensor([[box]])}
    beside = {**points, "input_labels": torch.tensor([[[0]]])}
    at = exported.stack.addresses
    with Client(at.decoder, at.embedding, model=model, timeout=120) as client:
        answer = client.predict(photo.getvalue(), prompts, low_res_logits=True)
    assert answer.cache.name == "MISS"
    for got, given in zip(answer.results, (points, boxes, boxes | beside), strict=True):
        logits, ious = reference.decode(**given)
        order = np.argsort([-mask.predicted_iou for mask in got])
        assert np.allclose([got[k].predicted_iou for k in order], ious[1:], atol=TOLERANCE)
        for k, wanted in zip(order, logits[1:], strict=True):
            sent = (
                np.frombuffer(got[k].low_res_logits, "<f2").astype(np.float32).reshape(wanted.shape)
            )
            assert np.abs(sent - wanted).max() <= TOLERANCE * np.abs(logits).max()
