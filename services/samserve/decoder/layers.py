"""The weights of SAM's mask decoder, laid out for the kernel. Weights under transformers' names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samserve.decoder.kernel import HEADS, TILE, address, structs

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


class Layers:
    """Lays out the layers of a checkpoint, and keeps alive what the structures point at."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self._kept: list[NDArray[Any]] = []

    def floats(self, array: Floats) -> int:
        """The address of a fp32 copy."""
        return self._keep(np.array(array, np.float32, order="C"))

    def halves(self, array: Floats) -> int:
        """The address of a fp16 copy; checkpoints are of fp16 numbers, so that nothing is lost."""
        return self._keep(np.array(array, np.float16, order="C"))

    def linear(self, name: str) -> structs.Linear:
        """The columns padded to whole tiles."""
        weight, bias = self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"]
        more = -len(bias) % TILE
        columns = np.pad(weight.T, ((0, 0), (0, more)))
        return structs.Linear(
            self.halves(tiled(columns)), self.floats(np.pad(bias, (0, more))), len(columns), columns.shape[1]
        )

    def forward(self, name: str) -> tuple[structs.Linear, ...]:
        """Three linear layers with ReLUs between."""
        return tuple(self.linear(f"{name}.{part}") for part in ("proj_in", "layers.0", "proj_out"))

    def norm(self, name: str, epsilon: float = EPSILON) -> structs.Norm:
        weight, bias = (self.floats(self._tensors[f"{name}.{part}"]) for part in ("weight", "bias"))
        return structs.Norm(weight, bias, epsilon)

    def layer(self, name: str, image_bias: Floats, out_bias: Floats) -> structs.Layer:
        """image_bias [256]: the image side's own; out_bias [256]: what the attention of the image adds to it."""
        to_image, from_image = (f"{name}.cross_attn_{part}" for part in ("token_to_image", "image_to_token"))
        return structs.Layer(
            own=structs.Among(*(self.linear(f"{name}.self_attn.{part}_proj") for part in ("q", "k", "v", "out"))),
            norm1=self.norm(f"{name}.layer_norm1"),
            norm2=self.norm(f"{name}.layer_norm2"),
            norm3=self.norm(f"{name}.layer_norm3"),
            to_image=self.to_image(to_image, image_bias),
            wide=self.linear(f"{name}.mlp.lin1"),
            narrow=self.linear(f"{name}.mlp.lin2"),
            from_image=self._from_image(from_image, image_bias, out_bias),
        )

    def to_image(self, name: str, image_bias: Floats) -> structs.ToImage:
        value = self._tensors[f"{name}.v_proj.weight"]
        return structs.ToImage(
            ask=self.linear(f"{name}.q_proj"),
            join=self.linear(f"{name}.out_proj"),
            key=self.halves(self._tensors[f"{name}.k_proj.weight"]),
            value=self.halves(value.reshape(HEADS, -1, value.shape[1]).transpose(0, 2, 1)),
            value_bias=self.floats(self._tensors[f"{name}.v_proj.bias"] + value @ image_bias),
        )

    def _from_image(self, name: str, image_bias: Floats, out_bias: Floats) -> structs.FromImage:
        query = self._tensors[f"{name}.q_proj.weight"]
        return structs.FromImage(
            key=self.linear(f"{name}.k_proj"),
            value=self.linear(f"{name}.v_proj"),
            query=self.halves(query),
            out=self.halves(self._tensors[f"{name}.out_proj.weight"].T),
            query_bias=self.floats(self._tensors[f"{name}.q_proj.bias"] + query @ image_bias),
            out_bias=self.floats(centred(out_bias) / np.float32(HEADS)),
        )

    def _keep(self, array: NDArray[Any]) -> int:
        self._kept.append(array)
        return address(array)
