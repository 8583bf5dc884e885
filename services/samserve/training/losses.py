"""Training losses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samserve.training import prompts
from samserve.training.batches import Batch
from samserve.training.encoder import WIDTH
from samserve.training.network import Nano

Rng = np.random.Generator

DETAIL = 8  # channels of the auxiliary pixel features
SHARED = 0.08  # weight of the masks that are not the best of three
STABLE = 1.0  # logit offset of the stability score


@dataclass(frozen=True, slots=True)
class Weights:
    """Of the losses in addition to the masks'."""

    iou: float
    pixels: float


class PixelFeatures(nn.Module):
    """Auxiliary head, dropped after training: pixels of one object attract, others repel.

    It gives the encoder a gradient from every pixel directly.
    """

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Conv2d(WIDTH, 16 * DETAIL, 1)
        self.bias = nn.Parameter(torch.tensor(2.0))

    def forward(self, embedding: Tensor, owner: Tensor, clicks: Tensor) -> Tensor:
        """Logits of the pixels that belong with a click.

        Args:
            embedding: [B, 256, G, G].
            owner: [N], each click's image.
            clicks: [N, 2] x, y in [0, 1).

        Returns:
            [N, 4G, 4G].
        """
        features = F.pixel_shuffle(self.project(embedding), 4)
        side = features.shape[-1]
        cell = (clicks * side).long().clamp(0, side - 1)
        asked = features[owner, :, cell[:, 1], cell[:, 0]]
        distance = (features[owner] - asked[..., None, None]).square().sum(1)
        return self.bias - distance


def mask_losses(logits: Tensor, target: Tensor) -> Tensor:
    """[..., H, W] logits and soft targets -> [...]: twice the cross entropy plus the dice loss."""
    cross = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((-2, -1))
    chance = logits.sigmoid()
    overlap = (chance * target).sum((-2, -1))
    dice = 1 - (2 * overlap + 1) / ((chance + target).sum((-2, -1)) + 1)
    return 2 * cross + dice


def true_iou(logits: Tensor, target: Tensor) -> Tensor:
    """[..., H, W] logits and targets -> [...] intersection over union."""
    got, want = logits > 0, target > 0.5
    return (got & want).sum((-2, -1)).float() / (got | want).sum((-2, -1)).clamp(min=1)


def first_ranked(logits: Tensor, ious: Tensor) -> Tensor:
    """[N, 4, H, W] and [N, 4] -> [N]: index 1 to 3 of the mask that the decoder ranks first."""
    inner = (logits > STABLE).sum((-2, -1)).float()
    stability = inner / (logits > -STABLE).sum((-2, -1)).clamp(min=1)
    return 1 + (ious * stability)[:, 1:].argmax(1)


def stacked(tokens: list[prompts.Tokens]) -> tuple[Tensor, Tensor]:
    """Points [N, K, 2] and labels [N, K]."""
    points = torch.from_numpy(np.stack([t.points for t in tokens]))
    return points, torch.from_numpy(np.stack([t.labels for t in tokens]))


def corrected(
    rng: Rng, model: Nano, each: Tensor, batch: Batch, rounds: int
) -> tuple[list[prompts.Tokens], Tensor | None]:
    """Prompts after `rounds` corrective clicks, and the logits that they correct."""
    tokens, before = batch.tokens, None
    size = batch.wanted.shape[-2:]
    for _ in range(rounds):
        with torch.no_grad():
            logits, ious = model.decode(each, *stacked(tokens), before)
        before = logits[torch.arange(len(tokens)), first_ranked(logits, ious)][:, None]
        answers = F.interpolate(before, size, mode="bilinear", align_corners=False)[:, 0] > 0
        tokens = [
            prompts.corrective(rng, wanted, answer, former)
            for wanted, answer, former in zip(batch.wanted, answers.numpy(), tokens, strict=True)
        ]
    return tokens, before


def step_loss(
    rng: Rng, model: Nano, features: PixelFeatures, batch: Batch, rounds: int, weights: Weights
) -> Tensor:
    """The loss of one batch, after `rounds` corrective clicks."""
    embedding = model.encode(batch.pixels)
    each = embedding[batch.owner]
    target = F.avg_pool2d(torch.from_numpy(batch.wanted).float()[:, None], 4)
    tokens, before = corrected(rng, model, each.detach(), batch, rounds)
    logits, ious = model.decode(each, *stacked(tokens), before)

    every = target.expand_as(logits)
    losses = mask_losses(logits, every)
    best = losses[:, 1:].min(1).values.mean()
    loss = best + 0.5 * losses[:, 0].mean() + SHARED * losses[:, 1:].mean()

    wrong = ious - true_iou(logits.detach(), every)
    order = wrong[:, 1:] - wrong[:, 1:].mean(1, keepdim=True)  # error in the order of the three
    loss = loss + weights.iou * (wrong.square().mean() + 2 * order.square().mean())

    if weights.pixels:
        clicks = [prompts.anywhere(rng, wanted) for wanted in batch.wanted]
        shares = (torch.tensor(clicks) + 0.5) / batch.wanted.shape[-1]
        near = features(embedding, batch.owner, shares)
        loss = loss + weights.pixels * mask_losses(near, target[:, 0]).mean()
    return loss
