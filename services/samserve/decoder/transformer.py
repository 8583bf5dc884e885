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

What runs over cells is compiled (kernel/cells.c); what runs over tokens is numpy (layers.py).
Source of the function computed: SAM's MaskDecoder, TwoWayTransformer, PromptEncoder; weights under transformers' names.

Shapes: n = 5 + K tokens, T = 8 n rows head by head, H = 17 rows for a mask prompt or 0, N cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samserve.decoder.cores import Cores
from samserve.decoder.kernel import HEADS, TILE, Job, project, quantise
from samserve.decoder.layers import Attention, FeedForward, Floats, Layer, Norm, Tensors, centred, empty, tiled
from samserve.decoder.prompt_encoder import MaskEncoder, PointEncoder, Rough

LAST_EPSILON = 1e-5  # of the last attention's norm: PyTorch's default
FIXED_TOKENS = 5  # one that the IoUs are read from, and one for each of the four masks


def _pad64(count: int) -> int:
    return -(-count // TILE) * TILE


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """What of a prompt's work depends on the image alone: parts for the kernel, by its names, 16-bit integers with the
    scales of their channels [8, 1, 16]; x: the image itself [tiles, 256, 64].
    """

    x: Floats
    parts: dict[str, NDArray[Any]]
    scales: dict[str, Floats]

    @property
    def nbytes(self) -> int:
        held = (self.x, *self.parts.values(), *self.scales.values())
        return sum(array.nbytes for array in held)


@dataclass(frozen=True, slots=True)
class Part:
    """A projection [channels, 256] of the image; placed: and its positional encoding; cells_first: [N, channels]."""

    weight: Floats
    placed: bool = False
    cells_first: bool = False


class Transformer:
    """SAM's decoder on fp32 weights. Threads may share it: nothing in it changes."""

    def __init__(self, tensors: Tensors, cells: int) -> None:
        """tensors: prompt encoder and mask decoder under transformers' names; cells: the embedding's side."""
        self._side = cells
        self._points = PointEncoder(tensors, cells * 16)
        self._masks = MaskEncoder(tensors)
        name = "mask_decoder.transformer"
        self._first, self._second = (Layer(tensors, f"{name}.layers.{k}") for k in (0, 1))
        self._last = Attention.of(tensors, f"{name}.final_attn_token_to_image")
        self._last_norm = Norm.of(tensors, f"{name}.layer_norm_final_attn", LAST_EPSILON)
        self._fixed = np.concatenate(
            [tensors["mask_decoder.iou_token.weight"], tensors["mask_decoder.mask_tokens.weight"]]
        )
        self._hyper = [FeedForward(tensors, f"mask_decoder.output_hypernetworks_mlps.{k}") for k in range(4)]
        self._iou = FeedForward(tensors, "mask_decoder.iou_prediction_head")
        self._place = tiled(self._points.grid(cells))
        self._up = _Upscaling(tensors)
        self._fold()

    def _fold(self) -> None:
        """Everything that depends on the weights alone."""
        first, second, last = self._first, self._second, self._last
        g1, b1 = first.norm4.weight, first.norm4.bias
        g2, b2 = second.norm4.weight, second.norm4.bias
        self._bias0 = first.to_tokens.out_bias
        self._bias1 = centred(second.to_tokens.out_bias + b1)

        def once(weight: Floats) -> Floats:  # of the centred image, times g1
            return centred(weight * g1)

        def twice(weight: Floats) -> Floats:  # and that centred again
            return once(centred(weight))

        out0, out1 = (layer.to_tokens.out.reshape(-1, len(g1)) for layer in (first, second))
        self._parts = {
            "key0": Part(first.to_image.key.flat, placed=True),
            "value0": Part(first.to_image.value.flat, cells_first=True),
            "query0": Part(first.to_tokens.query.flat, placed=True),
            "out0": Part(centred(out0)),
            "key1": Part(once(second.to_image.key.flat)),
            "value1": Part(once(second.to_image.value.flat), cells_first=True),
            "query1": Part(once(second.to_tokens.query.flat)),
            "norm1": Part(twice(once(centred(out0)))),
            "out1": Part(twice(out1)),
            "key2": Part(twice(last.key.flat * g2)),
            "value2": Part(twice(last.value.flat * g2), cells_first=True),
            "fine": Part(np.ascontiguousarray(twice(self._up.first.T * g2))),
        }
        # what the norms' biases add to values and to the scores of the cells
        self._value_bias1 = (second.to_image.value.weight @ b1)[:, None]
        self._query_bias1 = (second.to_tokens.query.bias + second.to_tokens.query.weight @ b1)[:, None]
        self._value_bias2 = (last.value.weight @ b2)[:, None]
        self._squares = 2 * self._bias0, 2 * centred(g1 * centred(g1 * centred(self._bias0))), 2 * self._bias1
        self._constants = {
            "place_key1": second.to_image.key.flat @ self._place,
            "place_query1": second.to_tokens.query.flat @ self._place,
            "place_key2": last.key.flat @ self._place,
            "fine_bias": b2 @ self._up.first + self._up.first_bias,
            "norm_weight": self._up.norm.weight,
            "norm_bias": self._up.norm.bias,
            "thinner": self._up.second,
            "thinner_bias": self._up.second_bias,
        }

    def prepare(self, embedding: Floats, cores: Cores) -> PreparedImage:
        """[256, G, G] -> what prompts share. Some 3.5 GFLOP: as much as a few prompts."""
        x = tiled(embedding.reshape(len(embedding), -1) + self._masks.none[:, None])
        placed = x + self._place

        def make(name: str) -> tuple[str, tuple[NDArray[np.int16], Floats]]:
            part = self._parts[name]
            projected = empty(len(x), len(part.weight), TILE)
            project(part.weight, placed if part.placed else x, projected, 0, self._side**2)
            return name, quantise(projected, part.cells_first)

        made = cores.each(make, self._parts)
        parts: dict[str, NDArray[Any]] = {name: small for name, (small, _) in made}
        scales = {name: scale for name, (_, scale) in made}
        parts["fine_scale"] = scales.pop("fine")
        g1 = self._first.norm4.weight[:, None]
        apart = x - x.mean(1, keepdims=True)
        again = apart * g1
        again -= again.mean(1, keepdims=True)
        linear0, linear1, cross = self._squares
        parts["square0"] = _dot(apart, apart) + linear0 @ apart
        parts["square1"] = _dot(again, again) + linear1 @ apart
        parts["cross1"] = cross @ again
        return PreparedImage(x, parts, {name: scale.reshape(HEADS, 1, -1) for name, scale in scales.items()})

    def decode(
        self,
        image: PreparedImage,
        points: Floats,
        labels: Floats,
        mask_input: Floats | None,
        wanted: list[int],
        cores: Cores,
    ) -> tuple[Floats, Floats]:
        """One prompt. points [K, 2] frame pixels, labels [K], mask_input [4G, 4G] logits or None, wanted: of masks 0 to
        3. Returns low-res logits [M, 4G, 4G] and all four predicted IoUs.
        """
        first, second, last = self._first, self._second, self._last
        g1, g2 = first.norm4.weight, second.norm4.weight
        tokens = np.concatenate([self._fixed, self._points(points, labels)])
        count, cells = len(tokens), self._side**2
        rows, scales = HEADS * count, image.scales
        rough = self._masks(mask_input)
        extra = rough.rows.shape[1]
        m0 = centred(rough.matrix)
        m0g = centred(m0 * g1)

        job = Job(cells=cells, tokens=count, rough=extra, masks=len(wanted))
        job.give(**image.parts, **self._constants, rough_rows=rough.rows)
        job.give(epsilon1=first.norm4.epsilon, epsilon2=second.norm4.epsilon, epsilon_fine=self._up.norm.epsilon)
        job.give(s1=empty(rows, cells), s2=empty(rows, cells), r1=empty(cells), r2=empty(cells))
        if extra:
            job.give(**self._roughened(image, rough, m0, m0g, cores))

        # first layer: the image side is X
        queries = first.norm1(first.own.among(tokens, tokens))
        ask = first.to_image.ask(queries + tokens)
        job.give(ask0=ask * scales["key0"], ask0_rough=first.to_image.key.fold(ask) @ rough.matrix.T)
        sums, [shares] = _attend(cores, job, "pass_first", rows, [extra])
        sums = sums * scales["value0"]
        values = first.to_image.value
        queries = first.after(queries, first.to_image.join(sums + values.project(shares @ rough.matrix)))
        attention = first.to_tokens
        keys = attention.key(queries + tokens) * attention.scaling
        values0 = attention.value(queries)
        m1 = centred((values0 @ attention.out).reshape(rows, -1) + self._bias0 / HEADS)
        m1x = np.concatenate([m1, m0])
        job.give(
            keys0=keys * scales["query0"],
            keys0_rough=attention.query.fold(keys) @ rough.matrix.T,
            keys0_bias=(keys * attention.query.bias[:, None]).sum(-1),
            values0=values0 * scales["out0"],
            values0_second=values0 * scales["norm1"],
            gram0=_gram(m1, m0),
        )

        # second layer: the image side is r1 (X + s1'm1) g1 + b1
        queries = second.norm1(queries + second.own.among(queries + tokens, queries))
        attention = second.to_image
        ask = attention.ask(queries + tokens)
        job.give(ask1=ask * scales["key1"], ask1_place=ask, ask1_mixed=(attention.key.fold(ask) * g1) @ m1x.T)
        sums, [shares] = _attend(cores, job, "pass_second", rows, [rows + extra])
        sums = sums * scales["value1"]
        values = attention.value
        sums = sums + values.project((shares @ m1x) * g1) + self._value_bias1
        queries = second.after(queries, attention.join(sums))
        attention = second.to_tokens
        keys = attention.key(queries + tokens) * attention.scaling
        values1 = attention.value(queries)
        m1g = centred(m1 * g1)
        m1gx = np.concatenate([m1g, m0g])
        m2 = centred((values1 @ attention.out).reshape(rows, -1)) + self._bias1 / HEADS
        job.give(
            keys1=keys * scales["query1"],
            keys1_place=keys,
            keys1_mixed=(attention.query.fold(keys) * g1) @ m1x.T,
            keys1_bias=(keys * self._query_bias1).sum(-1),
            values1=values1 * scales["out1"],
            gram1=_gram(m1g, m0g),
            gram12=m2 @ m1gx.T,
            gram2=_half(m2 @ m2.T),
        )

        # last attention and upscaling: the image side is r2 (r1 (X g1 + s1'm1) + s2'm2) g2 + b2
        m1x, m2 = m1gx * g2, m2 * g2
        ask = last.ask(queries + tokens)
        folded = last.key.fold(ask)
        job.give(ask2=ask * scales["key2"], ask2_place=ask, ask2_mixed1=folded @ m1x.T, ask2_mixed2=folded @ m2.T)
        sums, [shares1, shares2] = _attend(cores, job, "pass_third", rows, [rows + extra, rows])
        sums = sums * scales["value2"]
        sums = sums + last.value.project(shares1 @ m1x + shares2 @ m2) + self._value_bias2
        queries = self._last_norm(queries + last.join(sums))
        logits = empty(len(wanted), 4 * self._side, 4 * self._side)
        job.give(
            mix=(np.concatenate([m1x, m2]) @ self._up.first).T,
            hyper=np.stack([self._hyper[k](queries[1 + k]) for k in wanted]),
            logits=logits,
        )
        cores.split(lambda first, last: job.run("pass_masks", first, last))
        return logits, self._iou(queries[0])

    def _roughened(
        self, image: PreparedImage, rough: Rough, m0: Floats, m0g: Floats, cores: Cores
    ) -> dict[str, Floats]:
        """The variances' rows, with a mask prompt's part."""
        h, g1, parts = rough.rows, self._first.norm4.weight, image.parts
        extra = len(m0)
        both = np.ascontiguousarray(np.concatenate([m0, centred(g1 * centred(m0g))]))
        crossed = empty(len(h), 2 * extra, TILE)
        cores.split(lambda first, last: project(both, image.x, crossed, first, last))
        with0, with1 = crossed[:, :extra], crossed[:, extra:]
        return {
            "square0": parts["square0"] + _dot(h, 2 * with0 + (m0 @ m0.T) @ h),
            "square1": parts["square1"] + _dot(h, 2 * with1 + (m0g @ m0g.T) @ h),
        }


def _gram(m: Floats, extra: Floats) -> Floats:
    """[T, T + H]: half of what |S'm + h'extra|^2 takes of each row of S."""
    return np.concatenate([_half(m @ m.T), m @ extra.T], 1)


def _half(gram: Floats) -> Floats:
    """A symmetric matrix's lower half, with half its diagonal."""
    half = np.tril(gram)
    half[np.diag_indices(len(half))] *= np.float32(0.5)
    return half


def _dot(a: Floats, b: Floats) -> Floats:
    """[tiles, R, 64] twice -> [tiles, 64]: the sum over the rows of their product."""
    sums: Floats = np.einsum("trc,trc->tc", a, b)
    return sums


def _attend(cores: Cores, job: Job, name: str, rows: int, mixed: list[int]) -> tuple[Floats, list[Floats]]:
    """Run a pass: per row the weighted means of the value part [8, n, 16], and of each of the `mixed` rows [T, m]."""
    widths = [_pad64(m) for m in mixed]

    def work(first: int, last: int) -> Floats:
        out = empty(rows, 18 + sum(widths))
        job.run(name, first, last, out)
        return out

    return _merge(cores.split(work), mixed, widths)


def _merge(outs: list[Floats], mixed: list[int], widths: list[int]) -> tuple[Floats, list[Floats]]:
    top = np.max([out[:, 0] for out in outs], 0)
    joined = sum(out[:, 1:] * np.exp(out[:, 0] - top)[:, None] for out in outs)
    means = joined[:, 1:] / joined[:, :1]
    starts = np.cumsum([16, *widths])
    shares = [means[:, start : start + m] for start, m in zip(starts, mixed, strict=False)]
    return means[:, :16].reshape(HEADS, -1, 16), shares


class _Upscaling:
    """The two transposed convolutions as products. first: [256, 4 x 64]; second: [4 x 32, 64]."""

    def __init__(self, tensors: Tensors) -> None:
        one, two = tensors["mask_decoder.upscale_conv1.weight"], tensors["mask_decoder.upscale_conv2.weight"]
        self.first = np.ascontiguousarray(one.transpose(0, 2, 3, 1).reshape(len(one), -1))
        self.first_bias = np.tile(tensors["mask_decoder.upscale_conv1.bias"], 4)
        self.second = np.ascontiguousarray(two.transpose(2, 3, 1, 0).reshape(-1, len(two)))
        self.second_bias = np.tile(tensors["mask_decoder.upscale_conv2.bias"], 4)
        self.norm = Norm.of(tensors, "mask_decoder.upscale_layer_norm")
