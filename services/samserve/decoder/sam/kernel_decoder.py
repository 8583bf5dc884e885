"""SAM's mask decoder, rearranged: a fifth of the multiplications, and passes over what fits a core's own cache.

SAM's two-way transformer carries an image side of N = 4096 cells x 256 channels through two layers. Here it is never
formed. Each layer adds to every cell a weighted sum of a few token values, S'M, with S [8n, N] the attention of the
cells to n tokens (8 heads) and M [8n, 256], and normalises the cell. So after both layers a cell is

    keys2 = r2 (r1 (X + S1'M1) g1 + S2'M2) g2 + b2          r1, r2: one number per cell, from its variance

and all that the decoder asks of it is linear: scores q.Wk(keys + place), sums Wv(sum w keys), the first upscaling. Each
is then a product with X, which depends on the image alone (`prepare`, once per image), and products of 8n x 8n x N. The
channels' means vanish because X, M1, M2 are centred beforehand: centring and g are linear, so they become part of the
projections. Variances come from the projections too: |X + S'M|^2 = |X|^2 + S(2 M X + M M'S).

A mask prompt adds W h + b to X, h being 16 features per cell: 17 more rows beside S1's, with known M. So it shares the
prepared image as well.

SAM 2 adds a token, and to what the two upscalings make a finer map each, laid out by cells (`prepare`).

Both are compiled: what runs over cells (kernel/image_passes.c) and what runs over tokens (kernel/token_steps.c).
Source of the function computed: SAM's and SAM 2's MaskDecoder, TwoWayTransformer, PromptEncoder; weights under
transformers' names.

Shapes: n = 5 or 6 + K tokens, T = 8 n rows head by head, H = 17 rows for a mask prompt or 0, N cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samserve.core.embedding import Embedding
from samserve.decoder.sam.family import FAMILIES, Family
from samserve.decoder.sam.kernel import HEADS, MOST_TOKENS, TILE, Job, project, quantise, structs
from samserve.decoder.sam.kernel_weights import (
    EPSILON,
    Floats,
    Layers,
    by_cell,
    centred,
    empty,
    tiled,
)
from samserve.decoder.sam.prepared_image import PreparedImage, ReadyImage
from samserve.decoder.sam.prompt_encoder import MaskEncoder, PointEncoder
from samserve.decoder.sam.support import PIXELS, TRANSFORMER, Tensors, rename_sam2_weights
from samserve.decoder.sam.threads import Cores

LAST_EPSILON = 1e-5  # of the last attention's norm: PyTorch's default


@dataclass(frozen=True, slots=True)
class Part:
    """A projection [channels, 256] of the image; placed: and its positional encoding; cells_first: [N, channels]."""

    weight: Floats
    placed: bool = False
    cells_first: bool = False


class KernelDecoder:
    """The decoder of a family that it knows. Threads may share it: nothing in it changes."""

    def __init__(self, tensors: Tensors, cells: int, family: Family = FAMILIES["sam"]) -> None:
        """tensors: prompt encoder and mask decoder under transformers' names, fp32; cells: the embedding's side."""
        tensors = rename_sam2_weights(tensors)
        self._family, self._side = family, cells
        self._points = PointEncoder(tensors, PIXELS * cells)
        self._masks = MaskEncoder(tensors)
        self._fixed = np.concatenate(
            [tensors[f"mask_decoder.{name}.weight"] for name in family.tokens]
        )
        self.most_points = MOST_TOKENS - len(self._fixed)
        self._place = tiled(self._points.grid(cells))
        self._layers = Layers(tensors, family.epsilon)
        self._fold(tensors)

    def _fold(self, tensors: Tensors) -> None:
        """Everything that depends on the weights alone."""
        first, second = (f"{TRANSFORMER}.layers.{number}" for number in (0, 1))
        last = f"{TRANSFORMER}.final_attn_token_to_image"
        (g1, b1), (g2, b2) = (
            (tensors[f"{layer}.layer_norm4.weight"], tensors[f"{layer}.layer_norm4.bias"])
            for layer in (first, second)
        )

        def to_image(layer: str, part: str) -> Floats:
            return tensors[f"{layer}.cross_attn_token_to_image.{part}_proj.weight"]

        def from_image(layer: str, part: str) -> Floats:
            return tensors[f"{layer}.cross_attn_image_to_token.{part}_proj.weight"]

        def once(weight: Floats) -> Floats:  # of the centred image, times g1
            return centred(weight * g1)

        def twice(weight: Floats) -> Floats:  # and that centred again
            return once(centred(weight))

        out0, out1 = (np.ascontiguousarray(from_image(layer, "out").T) for layer in (first, second))
        up, up_bias, thinner, thinner_bias = _upscaling(tensors)
        self._parts = {
            "key0": Part(to_image(first, "k"), placed=True),
            "value0": Part(to_image(first, "v"), cells_first=True),
            "query0": Part(from_image(first, "q"), placed=True),
            "out0": Part(centred(out0)),
            "key1": Part(once(to_image(second, "k"))),
            "value1": Part(once(to_image(second, "v")), cells_first=True),
            "query1": Part(once(from_image(second, "q"))),
            "norm1": Part(twice(once(centred(out0)))),
            "out1": Part(twice(out1)),
            "key2": Part(twice(tensors[f"{last}.k_proj.weight"] * g2)),
            "value2": Part(twice(tensors[f"{last}.v_proj.weight"] * g2), cells_first=True),
            "fine": Part(twice(up * g2)),
        }
        bias0 = tensors[f"{first}.cross_attn_image_to_token.out_proj.bias"]
        bias1 = centred(tensors[f"{second}.cross_attn_image_to_token.out_proj.bias"] + b1)
        self._gain1 = g1
        self._squares = 2 * bias0, 2 * centred(g1 * centred(g1 * centred(bias0))), 2 * bias1
        layers, norm = self._layers, "mask_decoder.upscale_layer_norm"
        self._weights = structs.Weights(
            first=layers.layer(first, np.zeros_like(b1), bias0),
            second=layers.layer(second, b1, bias1),
            last=layers.to_image(last, b2),
            last_norm=layers.norm(f"{TRANSFORMER}.layer_norm_final_attn", LAST_EPSILON),
            iou=layers.forward("mask_decoder.iou_prediction_head"),
            gain1=layers.floats(g1),
            gain2=layers.floats(g2),
            rough=layers.floats(self._masks.matrix),
            rough_turned=layers.floats(
                np.pad(self._masks.matrix.T, ((0, 0), (0, TILE - len(self._masks.matrix))))
            ),
            up=layers.floats(up * g2),
            fine_bias=layers.floats(up @ b2 + up_bias),
            norm_weight=layers.floats(tensors[f"{norm}.weight"]),
            norm_bias=layers.floats(tensors[f"{norm}.bias"]),
            thinner=layers.floats(thinner),
            thinner_bias=layers.floats(thinner_bias),
            place_key1=layers.floats(to_image(second, "k") @ self._place),
            place_query1=layers.floats(from_image(second, "q") @ self._place),
            place_key2=layers.floats(tensors[f"{last}.k_proj.weight"] @ self._place),
            epsilon1=self._family.epsilon,
            epsilon2=self._family.epsilon,
            epsilon_fine=EPSILON,
        )
        for mask in range(structs.MOST_MASKS):
            self._weights.hyper[mask] = layers.forward(
                f"mask_decoder.output_hypernetworks_mlps.{mask}"
            )

    def prepare(self, embedding: Embedding, cores: Cores) -> PreparedImage:
        """What prompts on the image share. Some 3.5 GFLOP: as much as a few prompts."""
        image = embedding.tensors["embedding"].astype(np.float32)
        x = tiled(image.reshape(len(image), -1) + self._masks.none[:, None])
        placed = x + self._place

        def make(name: str) -> tuple[str, tuple[NDArray[np.int16], Floats]]:
            part = self._parts[name]
            projected = empty(len(x), len(part.weight), TILE)
            project(part.weight, placed if part.placed else x, projected, 0, self._side**2)
            return name, quantise(projected, part.cells_first)

        made = cores.each(make, self._parts)
        parts: dict[str, NDArray[Any]] = {
            name: by_cell(embedding.tensors[name], self._side) for name in self._family.fine
        }
        for name, (small, scale) in made:
            parts[name], parts[f"{name}_scale"] = small, scale
        g1 = self._gain1[:, None]
        apart = x - x.mean(1, keepdims=True)
        again = apart * g1
        again -= again.mean(1, keepdims=True)
        linear0, linear1, cross = self._squares
        parts["square0"] = _dot(apart, apart) + linear0 @ apart
        parts["square1"] = _dot(again, again) + linear1 @ apart
        parts["cross1"] = cross @ again
        return PreparedImage(x, parts)

    def decode(
        self,
        image: ReadyImage,
        points: Floats,
        labels: Floats,
        mask_input: Floats | None,
        wanted: list[int],
        cores: Cores,
    ) -> tuple[Floats, Floats]:
        """One prompt. points [K, 2] frame pixels, labels [K], mask_input [4G, 4G] logits or None, wanted: of masks 0 to
        3. Returns low-res logits [M, 4G, 4G] and all four predicted IoUs.
        """
        tokens = np.concatenate([self._fixed, self._points(points, labels)])
        rows, cells, side = HEADS * len(tokens), self._side**2, 4 * self._side
        rough = self._masks(mask_input)
        left = {
            "s1": empty(rows, cells),
            "s2": empty(rows, cells),
            "r1": empty(cells),
            "r2": empty(cells),
        }
        answer = {"logits": empty(len(wanted), side, side), "ious": empty(TILE)}
        arrays = {**image.prepared.parts, "rough_rows": rough, **left, **answer}
        if mask_input is not None:
            arrays |= self._roughened(image.prepared, rough, cores)

        mixed = rows + rough.shape[1]
        job = Job(self._weights, tokens, wanted, arrays)
        job.tokens("begin", [])
        job.tokens("first", _pass(cores, job, "first", rows, [rough.shape[1]]))
        job.tokens("second", _pass(cores, job, "second", rows, [mixed]))
        job.tokens("last", _pass(cores, job, "third", rows, [mixed, rows]))
        cores.split(partial(job.cells, "masks"))
        ious = answer["ious"][: structs.MOST_MASKS]
        return answer["logits"], 1 / (1 + np.exp(-ious)) if self._family.sigmoid else ious

    def _roughened(self, image: PreparedImage, h: Floats, cores: Cores) -> dict[str, Floats]:
        """The variances' rows, with a mask prompt's part."""
        g1, parts = self._gain1, image.parts
        m0 = centred(self._masks.matrix)
        m0g = centred(m0 * g1)
        both = np.ascontiguousarray(np.concatenate([m0, centred(g1 * centred(m0g))]))
        crossed = empty(len(h), len(both), TILE)
        cores.split(lambda first, last: project(both, image.x, crossed, first, last))
        with0, with1 = crossed[:, : len(m0)], crossed[:, len(m0) :]
        return {
            "square0": parts["square0"] + _dot(h, 2 * with0 + (m0 @ m0.T) @ h),
            "square1": parts["square1"] + _dot(h, 2 * with1 + (m0g @ m0g.T) @ h),
        }


def _dot(a: Floats, b: Floats) -> Floats:
    """[tiles, R, 64] twice -> [tiles, 64]: the sum over the rows of their product."""
    sums: Floats = np.einsum("trc,trc->tc", a, b)
    return sums


def _pass(cores: Cores, job: Job, name: str, rows: int, mixed: list[int]) -> list[Floats]:
    """Run a pass on all cells. Of each caller's part, per row: the largest score, the weights' total, their sums of the
    value part and of each of the `mixed` rows, padded to whole tiles.
    """
    width = 2 + 16 + sum(-(-m // TILE) * TILE for m in mixed)

    def work(first: int, last: int) -> Floats:
        out = empty(rows, width)
        job.cells(name, first, last, out)
        return out

    return cores.split(work)


def _upscaling(tensors: Tensors) -> tuple[Floats, Floats, Floats, Floats]:
    """The two transposed convolutions as products: weights [4 x 64, 256], [4 x 32, 64] and their biases."""
    one, two = (
        tensors["mask_decoder.upscale_conv1.weight"],
        tensors["mask_decoder.upscale_conv2.weight"],
    )
    return (
        np.ascontiguousarray(one.transpose(2, 3, 1, 0).reshape(-1, len(one))),
        np.tile(tensors["mask_decoder.upscale_conv1.bias"], 4),
        two.transpose(2, 3, 1, 0).reshape(-1, len(two)),
        np.tile(tensors["mask_decoder.upscale_conv2.bias"], 4),
    )
