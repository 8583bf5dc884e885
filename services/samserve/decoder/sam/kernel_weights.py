"""The weights of SAM's mask decoder, laid out for the kernel. Weights under transformers' names for SAM."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from samserve.decoder.sam.kernel import HEADS, TILE, address, structs
from samserve.decoder.sam.support import Tensors

Floats = NDArray[Any]  # fp32 throughout, which the types of numpy's products do not tell
EPSILON = 1e-6  # of the norms over a map's channels
MOST = 32767  # of a 16-bit integer


def empty(*shape: int) -> Floats:
    return np.empty(shape, np.float32)


def tiled(rows: Floats) -> Floats:
    """[R, N] -> [N / 64, R, 64], as the kernel reads it."""
    return np.ascontiguousarray(rows.reshape(len(rows), -1, TILE).transpose(1, 0, 2), np.float32)


def by_cell(fine: NDArray[np.float16], cells: int) -> NDArray[np.float16]:
    """A map of a finer grid, [C, f G, f G], by the embedding's cells: [tiles, f f C, 64], the pixels of a cell in the
    order in which upscalings by two make them, quarter by quarter.
    """
    halvings = (fine.shape[1] // cells).bit_length() - 1
    split = (cells, *[2] * halvings)
    within = [axis for step in range(2, 2 + halvings) for axis in (step, step + 1 + halvings)]
    pixels = fine.reshape(len(fine), *split, *split).transpose(*within, 0, 1, 2 + halvings)
    return np.ascontiguousarray(pixels.reshape(-1, cells**2 // TILE, TILE).transpose(1, 0, 2))


def centred(x: Floats) -> Floats:
    """[..., C] less its mean over the channels."""
    return x - np.add.reduce(x, -1, keepdims=True) / np.float32(x.shape[-1])


class Layers:
    """Lays out the layers of a checkpoint, and keeps alive what the structures point at."""

    def __init__(self, tensors: Tensors, epsilon: float) -> None:
        """epsilon: of the transformer's norms."""
        self._tensors, self._epsilon = tensors, epsilon
        self._kept: list[NDArray[Any]] = []

    def floats(self, array: Floats) -> int:
        """The address of a fp32 copy."""
        return self._keep(np.array(array, np.float32, order="C"))

    def small(self, array: Floats, axis: int) -> structs.Packed16:
        """fp16 if nothing is lost by it, else integers with a scale for all numbers along `axis`."""
        most = np.abs(array).max(axis, keepdims=True)
        half = np.array(array, np.float16, order="C")
        if np.array_equal(half, array):
            return structs.Packed16(self._keep(half), self.floats(np.ones_like(most)), 1)
        scale = np.where(most > 0, most / MOST, 1).astype(np.float32)
        return structs.Packed16(
            self._keep(np.rint(array / scale).astype(np.int16, order="C")), self.floats(scale), 0
        )

    def linear(self, name: str) -> structs.Linear:
        """The columns padded to whole tiles."""
        weight, bias = self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"]
        more = -len(bias) % TILE
        columns = np.pad(weight.T, ((0, 0), (0, more)))
        return structs.Linear(
            self.small(tiled(columns), axis=1),
            self.floats(np.pad(bias, (0, more))),
            len(columns),
            columns.shape[1],
        )

    def forward(self, name: str) -> tuple[structs.Linear, ...]:
        """Three linear layers with ReLUs between."""
        return tuple(self.linear(f"{name}.{part}") for part in ("proj_in", "layers.0", "proj_out"))

    def norm(self, name: str, epsilon: float | None = None) -> structs.Norm:
        weight, bias = (self.floats(self._tensors[f"{name}.{part}"]) for part in ("weight", "bias"))
        return structs.Norm(weight, bias, self._epsilon if epsilon is None else epsilon)

    def layer(self, name: str, image_bias: Floats, out_bias: Floats) -> structs.Layer:
        """image_bias [256]: the image side's own; out_bias [256]: what the attention of the image adds to it."""
        to_image, from_image = (
            f"{name}.cross_attn_{part}" for part in ("token_to_image", "image_to_token")
        )
        return structs.Layer(
            own=structs.SelfAttention(
                *(self.linear(f"{name}.self_attn.{part}_proj") for part in ("q", "k", "v", "out"))
            ),
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
            key=self.small(self._tensors[f"{name}.k_proj.weight"], axis=1),
            value=self.small(value.reshape(HEADS, -1, value.shape[1]).transpose(0, 2, 1), axis=1),
            value_bias=self.floats(self._tensors[f"{name}.v_proj.bias"] + value @ image_bias),
        )

    def _from_image(self, name: str, image_bias: Floats, out_bias: Floats) -> structs.FromImage:
        query = self._tensors[f"{name}.q_proj.weight"]
        return structs.FromImage(
            key=self.linear(f"{name}.k_proj"),
            value=self.linear(f"{name}.v_proj"),
            query=self.small(query, axis=1),
            out=self.small(self._tensors[f"{name}.out_proj.weight"].T, axis=1),
            query_bias=self.floats(self._tensors[f"{name}.q_proj.bias"] + query @ image_bias),
            out_bias=self.floats(centred(out_bias) / np.float32(HEADS)),
        )

    def _keep(self, array: NDArray[Any]) -> int:
        self._kept.append(array)
        return address(array)
