"""transformers' own PyTorch models, which exported bundles are compared with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from samserve.core.arrays import Bytes, Floats
from samserve.core.family import Family
from samserve.export.checkpoints.checkpoint import Checkpoint
from samserve.export.families.family import ReferenceImage
from samserve.export.graphs.decoder import PAD_LABEL


class Reference:
    """A checkpoint run by transformers, one image at a time."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._family = checkpoint.family
        self._model = checkpoint.build()
        self._family.patch(self._model)
        self._judge = self._family.judge(self._model)
        self._mean = torch.tensor(checkpoint.pixel_mean)
        self._std = torch.tensor(checkpoint.pixel_std)
        self._image = ReferenceImage({}, {})

    @torch.no_grad()
    def embed(self, image: Bytes, valid: tuple[int, int]) -> dict[str, Floats]:
        """Encode an image, and keep it for `decode`.

        Args:
            image: [frame, frame, 3] RGB.
            valid: Height and width of the part that is not padding, in pixels.

        Returns:
            The embedding's tensors by name, [1, ...] each.
        """
        height, width = valid
        normalised = (torch.from_numpy(image).float() - self._mean) / self._std
        padded = torch.zeros_like(normalised)
        padded[:height, :width] = normalised[:height, :width]
        features = self._judge.get_image_embeddings(padded.permute(2, 0, 1)[None])
        self._image = self._family.reference_image(self._model, features)
        return {name: tensor.numpy() for name, tensor in self._image.tensors.items()}

    @torch.no_grad()
    def decode(self, **prompt: Tensor) -> tuple[Floats, Floats]:
        """Decode a prompt on the image embedded last.

        Args:
            prompt: input_points, input_labels, input_boxes and input_masks, as transformers
                takes them.

        Returns:
            Logits [4, L, L] and predicted IoU [4]: the single mask, then the candidates, best
            first.
        """
        outputs = [
            self._judge(**self._image.inputs, multimask_output=multimask, **prompt)
            for multimask in (False, True)
        ]
        logits = torch.cat([output.pred_masks[0, 0] for output in outputs]).numpy()
        ious = torch.cat([output.iou_scores[0, 0] for output in outputs]).numpy()
        return best_first(logits, ious)


def best_first(logits: Floats, ious: Floats) -> tuple[Floats, Floats]:
    """Sort the candidates by predicted IoU; the single mask stays in front."""
    order = np.concatenate([[0], 1 + np.argsort(-ious[1:], kind="stable")])
    return logits[order], ious[order]


def prompts(frame: int, low_res: int) -> Iterator[dict[str, Tensor]]:
    """Prompts as transformers takes them.

    They are a point, three points, a box, a box with a point, and points with a mask.

    Args:
        frame: Side of the model's frame, in pixels.
        low_res: Side of the low-res logits, in cells.
    """

    def points(*shares: float) -> Tensor:
        return frame * torch.tensor(shares).reshape(1, 1, -1, 2)

    box = {"input_boxes": frame * torch.tensor([[[0.2, 0.25, 0.8, 0.7]]])}
    one = {"input_points": points(0.5, 0.4), "input_labels": torch.tensor([[[1]]])}
    three = {
        "input_points": points(0.5, 0.4, 0.1, 0.6, 0.7, 0.2),
        "input_labels": torch.tensor([[[1, 0, 1]]]),
    }
    slope = torch.linspace(-6, 6, low_res)
    mask = {"input_masks": (slope[:, None] + slope.sin())[None, None]}
    yield from (one, three, box, one | box, three | mask)


def graph_inputs(family: Family, prompt: dict[str, Tensor], low_res: int) -> dict[str, Floats]:
    """Convert a prompt from transformers' form to inputs of the decoder's graph.

    Points come first, then the corners of a box, then padding as the family needs it.
    """
    points = [torch.zeros(1, 0, 2)]
    labels = [torch.zeros(1, 0)]
    if "input_points" in prompt:
        points.append(prompt["input_points"][0])
        labels.append(prompt["input_labels"][0].float())
    if "input_boxes" in prompt:
        points.append(prompt["input_boxes"].reshape(1, 2, 2))
        labels.append(torch.tensor([[2.0, 3.0]]))
    if family.always_padded or "input_boxes" not in prompt:
        points.append(torch.zeros(1, 1, 2))
        labels.append(torch.tensor([[float(PAD_LABEL)]]))

    mask = prompt.get("input_masks")
    no_mask = np.zeros((1, 1, low_res, low_res), np.float32)
    return {
        "points": torch.cat(points, 1).numpy(),
        "labels": torch.cat(labels, 1).numpy(),
        "mask_input": no_mask if mask is None else mask.numpy(),
        "has_mask": np.array([mask is not None], np.float32),
    }
