"""The layers of SAM's mask decoder on tokens: some dozens of small products, in numpy.

Weights under transformers' names. n tokens, 8 heads of c channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samserve.decoder.kernel import HEADS, TILE, project_half

Floats = NDArray[Any]  # fp32 throughout, which the types of numpy's products do not tell
Tensors = Mapping[str, Floats]
EPSILON = 1e-6  # of the norms


def empty(*shape: int) -> Floats:
    return np.empty(shape, np.float32)


def tiled(rows: Floats) -> Floats:
    """[R, N] -> [N / 64, R, 64], as the kernel reads it."""
    return np.ascontiguousarray(rows.reshape(len(rows), -1, TILE).transpose(1, 0, 2), np.float32)


def centred(x: Floats) -> Floats:
    """[..., C] less its mean over the channels."""
    return x - np.add.reduce(x, -1, keepdims=True) / np.float32(x.shape[-1])


class Linear:
    """y = x weight + bias; weight [in, out]."""

    def __init__(self, tensors: Tensors, name: str) -> None:
        self.weight, self.bias = np.ascontiguousarray(tensors[f"{name}.weight"].T), tensors[f"{name}.bias"]

    def __call__(self, x: Floats) -> Floats:
        y: Floats = x @ self.weight + self.bias
        return y


class WideLinear:
    """Linear for few rows and a large weight, kept as the fp16 numbers it came in: reading it is what takes time."""

    def __init__(self, tensors: Tensors, name: str) -> None:
        self._weight = tiled(tensors[f"{name}.weight"].T).astype(np.float16)
        self._bias = tensors[f"{name}.bias"]

    def __call__(self, x: Floats) -> Floats:
        out = empty(len(self._weight), len(x), TILE)
        project_half(np.ascontiguousarray(x), self._weight, out, 0, len(out) * TILE)
        return out.transpose(1, 0, 2).reshape(len(x), -1) + self._bias


@dataclass(frozen=True, slots=True)
class Norm:
    """LayerNorm over the channels."""

    weight: Floats
    bias: Floats
    epsilon: float

    @classmethod
    def of(cls, tensors: Tensors, name: str, epsilon: float = EPSILON) -> Norm:
        return cls(tensors[f"{name}.weight"], tensors[f"{name}.bias"], epsilon)

    def __call__(self, x: Floats) -> Floats:
        apart = centred(x)
        variance = np.einsum("...c,...c->...", apart, apart)[..., None] / np.float32(x.shape[-1])
        normal: Floats = apart / np.sqrt(variance + np.float32(self.epsilon)) * self.weight + self.bias
        return normal


class Heads:
    """One projection of an attention, head by head: weight [8, c, 256], bias [8, c]."""

    def __init__(self, tensors: Tensors, name: str) -> None:
        self.flat, self._flat_bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]  # [8 c, 256], [8 c]
        self.weight = self.flat.reshape(HEADS, -1, self.flat.shape[1])
        self.bias = self._flat_bias.reshape(HEADS, -1)
        self._turned = np.ascontiguousarray(self.flat.T)

    def __call__(self, x: Floats) -> Floats:
        """[n, 256] -> [8, n, c]."""
        split: Floats = (x @ self._turned + self._flat_bias).reshape(len(x), HEADS, -1).transpose(1, 0, 2)
        return split

    def fold(self, tokens: Floats) -> Floats:
        """[8, n, c] -> [T, 256]: the tokens by the weights, to be multiplied with what is not projected."""
        return (tokens @ self.weight).reshape(-1, self.weight.shape[2])

    def project(self, sums: Floats) -> Floats:
        """[T, 256] -> [8, n, c], without the bias."""
        return sums.reshape(HEADS, -1, self.weight.shape[2]) @ self.weight.transpose(0, 2, 1)


@dataclass(frozen=True, slots=True)
class Attention:
    """out: [8, c, 256], from a head's values to the channels; out_bias [256]."""

    query: Heads
    key: Heads
    value: Heads
    out: Floats
    out_bias: Floats

    @classmethod
    def of(cls, tensors: Tensors, name: str) -> Attention:
        query, key, value = (Heads(tensors, f"{name}.{part}_proj") for part in "qkv")
        out = Linear(tensors, f"{name}.out_proj")
        return cls(query, key, value, out.weight.reshape(HEADS, -1, out.weight.shape[1]), out.bias)

    @property
    def scaling(self) -> np.float32:
        return np.float32(self.query.bias.shape[1] ** -0.5)

    def ask(self, x: Floats) -> Floats:
        """[n, 256] -> scaled queries [8, n, c]."""
        return self.query(x) * self.scaling

    def join(self, values: Floats) -> Floats:
        """[8, n, c] sums of values, biases not yet added -> [n, 256]."""
        full = values + self.value.bias[:, None]
        return (
            full.transpose(1, 0, 2).reshape(full.shape[1], -1) @ self.out.reshape(-1, self.out.shape[2]) + self.out_bias
        )

    def among(self, query: Floats, value: Floats) -> Floats:
        """Attention of tokens [n, 256] to each other, which serve as keys too."""
        scores = self.ask(query) @ self.key(query).transpose(0, 2, 1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return self.join(weights @ (self.value(value) - self.value.bias[:, None]))


class Layer:
    """One of the two layers."""

    def __init__(self, tensors: Tensors, name: str) -> None:
        self.own = Attention.of(tensors, f"{name}.self_attn")
        self.to_image = Attention.of(tensors, f"{name}.cross_attn_token_to_image")
        self.to_tokens = Attention.of(tensors, f"{name}.cross_attn_image_to_token")
        self.norm1, self.norm2, self.norm3, self.norm4 = (
            Norm.of(tensors, f"{name}.layer_norm{k}") for k in (1, 2, 3, 4)
        )
        self._widen, self._narrow = WideLinear(tensors, f"{name}.mlp.lin1"), WideLinear(tensors, f"{name}.mlp.lin2")

    def after(self, queries: Floats, attended: Floats) -> Floats:
        """The tokens after their attention to the image."""
        queries = self.norm2(queries + attended)
        return self.norm3(queries + self._narrow(np.maximum(self._widen(queries), 0)))


class FeedForward:
    """Three linear layers with ReLUs between."""

    def __init__(self, tensors: Tensors, name: str) -> None:
        self._steps = [Linear(tensors, f"{name}.{part}") for part in ("proj_in", "layers.0", "proj_out")]

    def __call__(self, x: Floats) -> Floats:
        first, second, last = self._steps
        return last(np.maximum(second(np.maximum(first(x), 0)), 0))
