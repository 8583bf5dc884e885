"""What transformers' own PyTorch models answer: the judge of an exported bundle."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from samserve.export.checkpoints.checkpoint import SAM2, SAM_HQ, Checkpoint
from samserve.export.graphs.decoder import PAD_LABEL

Floats = NDArray[np.float32]


class Reference:
    """A checkpoint run by transformers, one picture at a time."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.model, self._family = checkpoint.build(), checkpoint.family
        self._mean, self._std = (
            torch.tensor(checkpoint.pixel_mean),
            torch.tensor(checkpoint.pixel_std),
        )
        if checkpoint.family == SAM2:
            self.model.mask_decoder.dynamic_multimask_via_stability = (
                False  # that chooses a mask; we want all
            )
        if checkpoint.family == SAM_HQ:
            mend(self.model.mask_decoder)

    @torch.no_grad()
    def embed(self, image: NDArray[np.uint8], valid: tuple[int, int]) -> dict[str, Floats]:
        """uint8 [frame, frame, 3] and its valid height and width -> the embedding's tensors, [1, ...]."""
        normal = (torch.from_numpy(image).float() - self._mean) / self._std
        padded = torch.zeros_like(normal)
        padded[: valid[0], : valid[1]] = normal[: valid[0], : valid[1]]
        features = self.model.get_image_embeddings(padded.permute(2, 0, 1)[None])
        self._image: dict[str, object] = {"image_embeddings": features}
        named = {"embedding": features}
        if self._family == SAM2:
            named = dict(zip(("embedding", "fine_1", "fine_0"), reversed(features), strict=True))
        if self._family == SAM_HQ:
            embedding, early = features
            self._image = {"image_embeddings": embedding, "intermediate_embeddings": early}
            named = {"embedding": embedding, "hq": self._finer(embedding, early[0])}
        return {name: tensor.numpy() for name, tensor in named.items()}

    def _finer(self, embedding: Tensor, early: Tensor) -> Tensor:
        """SAM-HQ's features of the image. Source: transformers' SamHQMaskDecoder.forward."""
        decoder = self.model.mask_decoder
        late = decoder.encoder_conv2(
            decoder.activation(decoder.encoder_norm(decoder.encoder_conv1(embedding)))
        )
        early = decoder.compress_vit_conv1(early.permute(0, 3, 1, 2))
        return late + decoder.compress_vit_conv2(
            decoder.activation(decoder.compress_vit_norm(early))
        )

    @torch.no_grad()
    def decode(self, **prompt: Tensor) -> tuple[Floats, Floats]:
        """Logits [4, L, L] and predicted IoU [4] for a prompt on the last image: the single mask, then the candidates,
        best first. prompt: input_points, input_labels, input_boxes, input_masks, as transformers wants them.
        """
        answers = [
            self.model(**self._image, multimask_output=several, **prompt)
            for several in (False, True)
        ]
        logits = torch.cat([answer.pred_masks[0, 0] for answer in answers]).numpy()
        ious = torch.cat([answer.iou_scores[0, 0] for answer in answers]).numpy()
        return best_first(logits, ious)


def mend(decoder: nn.Module) -> None:
    """Let transformers' SAM-HQ upscale what its transformer made of the image, as SAM-HQ's authors do: version 5.23.0
    drops it and upscales the image as it came, rows and columns exchanged (docs/decisions/0012).
    """
    attended: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, outputs: tuple[Tensor, Tensor]) -> None:
        attended[:] = [outputs[1]]

    def replace(_module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return attended[0].squeeze(1).transpose(1, 2).reshape(inputs[0].shape)

    decoder.transformer.register_forward_hook(keep)
    decoder.upscale_conv1.register_forward_pre_hook(replace)


def best_first(logits: Floats, ious: Floats) -> tuple[Floats, Floats]:
    """The single mask stays where it is; the candidates are put in the order of their predicted IoU."""
    order = np.concatenate([[0], 1 + np.argsort(-ious[1:], kind="stable")])
    return logits[order], ious[order]


def prompts(frame: int, low_res: int) -> Iterator[dict[str, Tensor]]:
    """A point, three points, a box, a box with a point, and points with a mask: as transformers wants them."""

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


def graph_inputs(family: str, prompt: dict[str, Tensor], low_res: int) -> dict[str, Floats]:
    """The same prompt as the decoder's graph is given it: clicks, a box's corners, and padding, where SAM pads points
    without a box and SAM 2 pads always.
    """
    points, labels = [torch.zeros(1, 0, 2)], [torch.zeros(1, 0)]
    if "input_points" in prompt:
        points.append(prompt["input_points"][0])
        labels.append(prompt["input_labels"][0].float())
    if "input_boxes" in prompt:
        points.append(prompt["input_boxes"].reshape(1, 2, 2))
        labels.append(torch.tensor([[2.0, 3.0]]))
    if "input_boxes" not in prompt or family == SAM2:
        points.append(torch.zeros(1, 1, 2))
        labels.append(torch.tensor([[float(PAD_LABEL)]]))
    mask = prompt.get("input_masks")
    return {
        "points": torch.cat(points, 1).numpy(),
        "labels": torch.cat(labels, 1).numpy(),
        "mask_input": np.zeros((1, 1, low_res, low_res), np.float32)
        if mask is None
        else mask.numpy(),
        "has_mask": np.array([mask is not None], np.float32),
    }
