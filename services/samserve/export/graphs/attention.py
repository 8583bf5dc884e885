"""Attention between sequences, written as plain products and one softmax."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MASKED = -1e4  # added to the scores of what may not be seen; fp16 holds it, and exp makes it 0


class Attention(nn.Module):
    """Attention of M queries to N keys, with the projections of one of transformers' modules."""

    def __init__(self, attention: nn.Module, heads: int) -> None:
        """Take `q_proj`, `k_proj`, `v_proj`, and `o_proj` or `out_proj`."""
        super().__init__()
        self.q_proj = attention.q_proj
        self.k_proj = attention.k_proj
        self.v_proj = attention.v_proj
        self.o_proj = attention.o_proj if hasattr(attention, "o_proj") else attention.out_proj
        self.heads = heads
        self.scale = (attention.q_proj.weight.shape[0] // heads) ** -0.5

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """[B, M, C], [B, N, C], [B, N, C] -> [B, M, C].

        Args:
            query: What attends.
            key: What is attended to.
            value: What is summed.
            bias: Added to the scores, [B, 1 or heads, 1 or M, N].
        """
        q, k, v = (
            self.split(project(x))
            for project, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        scores = (q * self.scale) @ k.transpose(2, 3)
        if bias is not None:
            scores = scores + bias
        joined = (torch.softmax(scores, -1) @ v).transpose(1, 2)
        return self.o_proj(joined.flatten(2))

    def split(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, heads, N, C / heads]."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


def mask_bias(mask: Tensor) -> Tensor:
    """[B, N], 1 for what may be seen, else 0 -> what is added to scores, [B, 1, 1, N]."""
    return ((1 - mask) * MASKED)[:, None, None]
