"""The weights of SAM's mask decoder, laid out for the kernel. Names are transformers' for SAM."""

from __future__ import annotations

import numpy as np

from samserve.core.arrays import Array, Floats, Halves
from samserve.decoder.sam.kernel import HEADS, TILE, structs
from samserve.decoder.sam.support import Tensors

EPSILON = 1e-6  # of the LayerNorms over a map's channels
LARGEST_SHORT = 32767


def empty(*shape: int) -> Floats:
    """Return an uninitialised fp32 array."""
    return np.empty(shape, np.float32)


def to_tiles(rows: Array) -> Floats:
    """[R, N] -> [N / 64, R, 64], the layout that the kernel reads."""
    tiles = rows.reshape(len(rows), -1, TILE).transpose(1, 0, 2)
    return np.ascontiguousarray(tiles, np.float32)


def group_by_cell(fine_map: Halves, side: int) -> Halves:
    """Arrange a finer map by the cells of the embedding.

    The pixels of a cell come in the order in which upscalings by two make them: quarter by quarter,
    within each quarter again quarter by quarter.

    Args:
        fine_map: [C, f G, f G], with f a power of two.
        side: G, the embedding's side in cells.

    Returns:
        [tiles, f f C, 64].
    """
    # Split each side of f G pixels into G cells and log2(f) halves: [C, G, 2, ..., G, 2, ...].
    halvings = (fine_map.shape[1] // side).bit_length() - 1
    side_axes = (side, *[2] * halvings)
    split = fine_map.reshape(len(fine_map), *side_axes, *side_axes)

    # Put the halves first, (row, column) pairs from the coarsest to the finest, then the channels,
    # then the cells' rows and columns: [2, 2, ..., C, G, G].
    half_axes = [axis for step in range(2, 2 + halvings) for axis in (step, step + 1 + halvings)]
    pixels = split.transpose(*half_axes, 0, 1, 2 + halvings)

    tiles = pixels.reshape(-1, side**2 // TILE, TILE).transpose(1, 0, 2)
    return np.ascontiguousarray(tiles)


def centred(x: Array) -> Floats:
    """[..., C] less its mean over the channels."""
    mean: Array = np.add.reduce(x, -1, keepdims=True) / np.float32(x.shape[-1])
    return x - mean


class WeightLayout:
    """Fills the kernel's structures from a checkpoint; keeps alive what they point at."""

    def __init__(self, tensors: Tensors, epsilon: float) -> None:
        """Take the weights.

        Args:
            tensors: fp32.
            epsilon: Of the LayerNorms in the transformer.
        """
        self._tensors = tensors
        self._epsilon = epsilon
        self._arrays: list[Array] = []

    def floats(self, array: Array) -> int:
        """Return the address of a fp32 copy."""
        return self._keep(np.array(array, np.float32, order="C"))

    def packed(self, array: Floats, axis: int) -> structs.Packed16:
        """Pack numbers into 16 bits.

        As fp16 if that is exact, otherwise as integers with one scale for all numbers along `axis`.
        """
        largest = np.abs(array).max(axis, keepdims=True)
        half = np.array(array, np.float16, order="C")
        if np.array_equal(half, array):
            return structs.Packed16(self._keep(half), self.floats(np.ones_like(largest)), 1)

        scale = np.where(largest > 0, largest / LARGEST_SHORT, 1).astype(np.float32)
        integers = np.rint(array / scale).astype(np.int16, order="C")
        return structs.Packed16(self._keep(integers), self.floats(scale), 0)

    def linear(self, name: str) -> structs.Linear:
        """Lay out a linear layer, its outputs padded to whole tiles."""
        weight = self._tensors[f"{name}.weight"]
        bias = self._tensors[f"{name}.bias"]

        padding = -len(bias) % TILE
        columns = np.pad(weight.T, ((0, 0), (0, padding)))
        return structs.Linear(
            self.packed(to_tiles(columns), axis=1),
            self.floats(np.pad(bias, (0, padding))),
            len(columns),
            columns.shape[1],
        )

    def mlp(self, name: str) -> tuple[structs.Linear, ...]:
        """Lay out three linear layers; the kernel puts ReLUs between them."""
        return tuple(self.linear(f"{name}.{part}") for part in ("proj_in", "layers.0", "proj_out"))

    def norm(self, name: str, epsilon: float | None = None) -> structs.Norm:
        """Lay out a LayerNorm. Its epsilon is the transformer's unless given."""
        return structs.Norm(
            self.floats(self._tensors[f"{name}.weight"]),
            self.floats(self._tensors[f"{name}.bias"]),
            self._epsilon if epsilon is None else epsilon,
        )

    def layer(self, name: str, image_bias: Floats, out_bias: Floats) -> structs.Layer:
        """Lay out a layer of the transformer.

        Args:
            name: Of the layer.
            image_bias: [256], the constant part of the image side before the layer.
            out_bias: [256], the constant that the layer adds to the image side.
        """
        self_attention = (
            self.linear(f"{name}.self_attn.{part}_proj") for part in ("q", "k", "v", "out")
        )
        to_image = f"{name}.cross_attn_token_to_image"
        from_image = f"{name}.cross_attn_image_to_token"
        return structs.Layer(
            self_attention=structs.SelfAttention(*self_attention),
            norm1=self.norm(f"{name}.layer_norm1"),
            norm2=self.norm(f"{name}.layer_norm2"),
            norm3=self.norm(f"{name}.layer_norm3"),
            to_image=self.to_image(to_image, image_bias),
            mlp_in=self.linear(f"{name}.mlp.lin1"),
            mlp_out=self.linear(f"{name}.mlp.lin2"),
            from_image=self._from_image(from_image, image_bias, out_bias),
        )

    def to_image(self, name: str, image_bias: Floats) -> structs.ToImage:
        """Lay out an attention of the tokens to the image; see `layer`."""
        value = self._tensors[f"{name}.v_proj.weight"]
        value_by_head = value.reshape(HEADS, -1, value.shape[1]).transpose(0, 2, 1)
        return structs.ToImage(
            query=self.linear(f"{name}.q_proj"),
            out=self.linear(f"{name}.out_proj"),
            key=self.packed(self._tensors[f"{name}.k_proj.weight"], axis=1),
            value=self.packed(value_by_head, axis=1),
            value_bias=self.floats(self._tensors[f"{name}.v_proj.bias"] + value @ image_bias),
        )

    def _from_image(self, name: str, image_bias: Floats, out_bias: Floats) -> structs.FromImage:
        query = self._tensors[f"{name}.q_proj.weight"]
        return structs.FromImage(
            key=self.linear(f"{name}.k_proj"),
            value=self.linear(f"{name}.v_proj"),
            query=self.packed(query, axis=1),
            out=self.packed(self._tensors[f"{name}.out_proj.weight"].T, axis=1),
            query_bias=self.floats(self._tensors[f"{name}.q_proj.bias"] + query @ image_bias),
            # Added to every value row: the weights of a head sum to one, so a cell gets it 8 times.
            out_bias=self.floats(centred(out_bias) / np.float32(HEADS)),
        )

    def _keep(self, array: Array) -> int:
        self._arrays.append(array)
        return array.ctypes.data
