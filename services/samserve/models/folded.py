"""SAM's decoder, rearranged so that a prompt costs a fifth: `prepare` once per image, then a decode per prompt.

The two-way transformer carries an image side of N = 4096 cells x 256 channels through two layers. It is never formed
here. Each layer adds to it a weighted sum of a few token values, S'M with S [8n, N] the attention of cells to n tokens
(8 heads) and M [8n, 256], and normalises each cell. So after both layers a cell is

    keys2 = r2 (r1 (X + S1'M1) g1 + S2'M2) g2 + b2        r1, r2: one number per cell, from its variance

and everything the decoder asks of it is linear: scores q.Wk(keys + pe), sums Wv(sum w keys), the first upscaling. Each is
then a product with X, which depends on the image alone, plus products of at most 8n x 8n x N. The products with X are what
`PrepareGraph` does once: twelve projections. Channel means vanish because X, M1 and M2 are centred beforehand (centring
and g are linear, so they are part of the projections), and variances come from the same projections:
|X + S'M|^2 = |X|^2 + S(2 M X + M M' S).

A mask prompt changes X for itself alone. Then, and for an image that has no second prompt, the projections are not worth
making: `FoldedGraph` multiplies the tokens by the projection's weights instead, n columns in place of N.

Shapes: P prompts, n = 5 + K tokens, N cells, heads 8, head width 16. B is 1 (shared by all prompts) or P.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samserve.models.graph import DecoderGraph

PARTS = ("key0", "value0", "query0", "out0", "key1", "value1", "query1", "norm1", "out1", "key2", "value2")
ROWS = ("square0", "square1", "cross1")
PREPARED = (*PARTS, "fine", *ROWS)


def centred(x: Tensor) -> Tensor:
    """[..., C] less its mean over the channels."""
    return x - x.mean(-1, keepdim=True)


@dataclass(frozen=True, slots=True)
class Heads:
    """An attention's projections, head by head: weights [8, 16, 256], biases [8, 16]; out [8, 16, 256], out_bias [256]."""

    query: Tensor
    query_bias: Tensor
    key: Tensor
    key_bias: Tensor
    value: Tensor
    value_bias: Tensor
    out: Tensor
    out_bias: Tensor
    scaling: float

    @classmethod
    def of(cls, attention: nn.Module) -> Heads:
        count = attention.num_attention_heads

        def split(linear: nn.Linear) -> tuple[Tensor, Tensor]:
            width = linear.weight.shape[0] // count
            return linear.weight.reshape(count, width, -1), linear.bias.reshape(count, width)

        out = attention.out_proj
        return cls(
            *split(attention.q_proj),
            *split(attention.k_proj),
            *split(attention.v_proj),
            out.weight.T.reshape(count, -1, out.weight.shape[0]),
            out.bias,
            attention.scaling,
        )


class Projections:
    """What is asked of the image: for each of PARTS a matrix [8, 16, 256] on the raw image side X, centring included,
    and the constants that go with it.
    """

    def __init__(self, graph: DecoderGraph) -> None:
        decoder = graph.mask_decoder
        first, second = decoder.transformer.layers
        self.t2i = [Heads.of(first.cross_attn_token_to_image), Heads.of(second.cross_attn_token_to_image)]
        self.i2t = [Heads.of(first.cross_attn_image_to_token), Heads.of(second.cross_attn_image_to_token)]
        self.last = Heads.of(decoder.transformer.final_attn_token_to_image)
        self.norm = [first.layer_norm4, second.layer_norm4]
        g1, g2 = (norm.weight for norm in self.norm)
        b1, self.b2 = (norm.bias for norm in self.norm)
        self.g1, self.g2 = g1, g2
        self.bias0 = self.i2t[0].out_bias  # what the first image-to-token attention adds to every cell
        self.bias1 = centred(self.i2t[1].out_bias + b1)  # the second one's, and what the norm before it added
        self.b1 = b1
        # X -> centred -> times g1 -> centred -> times g2, each matrix applied from the right, so from the last step back
        back1 = [centred(part.flatten(0, 1) * g1) for part in (self.t2i[1].key, self.t2i[1].value, self.i2t[1].query)]
        norm1 = self.i2t[0].out.flatten(0, 1)
        norm1 = centred(centred(centred(centred(norm1) * g1)) * g1)
        last = [self._back(part.flatten(0, 1) * g2) for part in (self.last.key, self.last.value)]
        flat = (
            self.t2i[0].key.flatten(0, 1),
            self.t2i[0].value.flatten(0, 1),
            self.i2t[0].query.flatten(0, 1),
            centred(self.i2t[0].out.flatten(0, 1)),
            *back1,
            norm1,
            self._back(self.i2t[1].out.flatten(0, 1)),
            *last,
        )
        heads = self.last.query.shape[0]
        self.weights = {name: w.reshape(heads, -1, w.shape[-1]) for name, w in zip(PARTS, flat, strict=True)}
        conv = decoder.upscale_conv1
        self.fine = conv.weight.permute(0, 2, 3, 1).reshape(conv.weight.shape[0], -1)  # [256, 4 x 64]
        self.fine_back = self._back(self.fine.T * g2)  # [4 x 64, 256]

    def _back(self, w: Tensor) -> Tensor:
        return centred(centred(w) * self.g1)

    def rows(self, x: Tensor) -> dict[str, Tensor]:
        """[B, 256, N] -> what of the variances depends on the image alone, each [B, 1, N]."""
        once = x - x.mean(1, keepdim=True)
        twice = once * self.g1[:, None]
        twice = twice - twice.mean(1, keepdim=True)
        again = self.g1 * centred(self.g1 * centred(self.bias0))
        return {
            "square0": (once * (once + 2 * self.bias0[:, None])).sum(1, keepdim=True),
            "square1": (twice * twice + 2 * once * again[:, None]).sum(1, keepdim=True),
            "cross1": (twice * (2 * self.bias1[:, None])).sum(1, keepdim=True),
        }


class PrepareGraph(nn.Module):
    """embedding [1, 256, G, G] -> PREPARED: parts [8, 16, N], fine [N, 4 x 64], rows [1, 1, N]."""

    def __init__(self, graph: DecoderGraph) -> None:
        super().__init__()
        self.sam = graph

    def forward(self, embedding: Tensor) -> tuple[Tensor, ...]:
        project = Projections(self.sam)
        dense = self.sam.prompt_encoder.no_mask_embed.weight
        x = embedding.flatten(2)[0] + dense.T
        place = self.sam.grid_encoding().flatten(2)[0]
        placed = x + place
        parts = [weights @ (placed if name in ("key0", "query0") else x) for name, weights in project.weights.items()]
        return (*parts, x.T @ project.fine_back.T, *project.rows(x[None]).values())


class Prepared:
    """An image side that has been projected."""

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self._tensors = dict(zip(PREPARED, tensors, strict=True))

    def against(self, name: str, tokens: Tensor) -> Tensor:
        """[P, 8, n, 16] tokens -> [P, 8n, N] their products with part `name`."""
        return (tokens @ self._tensors[name]).flatten(1, 2)

    def gathered(self, name: str, weights: Tensor) -> Tensor:
        """[P, 8n, N] weights -> [P, 8, n, 16] sums of part `name`."""
        part = self._tensors[name]
        return weights.unflatten(1, (part.shape[0], -1)) @ part.transpose(1, 2)

    def row(self, name: str) -> Tensor:
        return self._tensors[name]

    def fine(self) -> Tensor:
        return self._tensors["fine"]


class Raw:
    """An image side as it is, x [B, 256, N]; the tokens are folded into its projections."""

    def __init__(self, project: Projections, x: Tensor, place: Tensor) -> None:
        self._project, self._x, self._place = project, x, place
        self._rows = project.rows(x)

    def against(self, name: str, tokens: Tensor) -> Tensor:
        folded = (tokens @ self._project.weights[name]).flatten(1, 2)
        side = self._x + self._place if name in ("key0", "query0") else self._x
        return folded @ side

    def gathered(self, name: str, weights: Tensor) -> Tensor:
        part = self._project.weights[name]
        sums = weights @ self._x.transpose(1, 2)
        return sums.unflatten(1, (part.shape[0], -1)) @ part.transpose(1, 2)

    def row(self, name: str) -> Tensor:
        return self._rows[name]

    def fine(self) -> Tensor:
        return self._x.transpose(1, 2) @ self._project.fine_back.T


class _Decode(nn.Module):
    """The decoder over an image side; what PreparedGraph and FoldedGraph share."""

    def __init__(self, graph: DecoderGraph) -> None:
        super().__init__()
        self.sam = graph

    def _decode(
        self, project: Projections, side: Prepared | Raw, place: Tensor, points: Tensor, labels: Tensor, wanted: Tensor
    ) -> tuple[Tensor, Tensor]:
        decoder = self.sam.mask_decoder
        first, second = decoder.transformer.layers
        sparse = self.sam.embed_points(points, labels)
        fixed = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([fixed.expand(sparse.shape[0], -1, -1), sparse], 1)

        # layer 1: the image side is X
        queries = _self_attention(first, tokens, tokens, residual=False)
        heads = project.t2i[0]
        scores = side.against("key0", _heads(queries + tokens, heads.query, heads.query_bias) * heads.scaling)
        queries = first.layer_norm2(queries + _out(side.gathered("value0", scores.softmax(-1)), heads))
        queries = first.layer_norm3(queries + first.mlp(queries))
        heads = project.i2t[0]
        keys = _heads(queries + tokens, heads.key, heads.key_bias) * heads.scaling
        s1 = _share(
            side.against("query0", keys) + (keys * heads.query_bias[:, None]).sum(-1).flatten(1)[..., None], keys
        )
        values = _heads(queries, heads.value, heads.value_bias)
        count = heads.value.shape[0]
        m1 = centred((values @ heads.out).flatten(1, 2) + project.bias0 / count)
        variance = side.row("square0") + (s1 * (2 * side.against("out0", values) + (m1 @ m1.mT) @ s1)).sum(
            1, keepdim=True
        )
        r1 = (variance / m1.shape[-1] + project.norm[0].eps).rsqrt()

        # layer 2: the image side is r1 (X + s1'm1) g1 + b1
        queries = _self_attention(second, queries, tokens, residual=True)
        heads = project.t2i[1]
        asked = _heads(queries + tokens, heads.query, heads.query_bias) * heads.scaling
        folded = _fold(asked, heads.key)
        scores = _on_place(asked, heads.key, place) + r1 * (
            side.against("key1", asked) + ((folded * project.g1) @ m1.mT) @ s1
        )
        w = scores.softmax(-1) * r1
        sums = side.gathered("value1", w) + _project((w @ s1.mT) @ m1 * project.g1, heads.value)
        queries = second.layer_norm2(queries + _out(sums + (heads.value @ project.b1)[:, None], heads))
        queries = second.layer_norm3(queries + second.mlp(queries))
        heads = project.i2t[1]
        keys = _heads(queries + tokens, heads.key, heads.key_bias) * heads.scaling
        folded = _fold(keys, heads.query)
        constant = (keys * (heads.query_bias + heads.query @ project.b1)[:, None]).sum(-1).flatten(1)[..., None]
        scores = _on_place(keys, heads.query, place) + r1 * (
            side.against("query1", keys) + ((folded * project.g1) @ m1.mT) @ s1
        )
        s2 = _share(scores + constant, keys)
        values1, values = values, _heads(queries, heads.value, heads.value_bias)
        m1 = centred(m1 * project.g1)
        m2 = centred((values @ heads.out).flatten(1, 2)) + project.bias1 / count
        square = side.row("square1") + (s1 * (2 * side.against("norm1", values1) + (m1 @ m1.mT) @ s1)).sum(
            1, keepdim=True
        )
        cross = side.row("cross1") + 2 * (s2 * (side.against("out1", values) + (m2 @ m1.mT) @ s1)).sum(1, keepdim=True)
        own = (s2 * ((m2 @ m2.mT) @ s2)).sum(1, keepdim=True)
        variance = r1 * (r1 * square + cross) + own
        r2 = (variance / m2.shape[-1] + project.norm[1].eps).rsqrt()

        # the image side is now r2 (r1 (X g1 + s1'm1) + s2'm2) g2 + b2
        m1, m2, r12 = m1 * project.g2, m2 * project.g2, r1 * r2
        heads = project.last
        asked = _heads(queries + tokens, heads.query, heads.query_bias) * heads.scaling
        folded = _fold(asked, heads.key)
        scores = (
            _on_place(asked, heads.key, place)
            + r12 * (side.against("key2", asked) + (folded @ m1.mT) @ s1)
            + r2 * ((folded @ m2.mT) @ s2)
        )
        w = scores.softmax(-1)
        w1, w2 = w * r12, w * r2
        sums = side.gathered("value2", w1) + _project((w1 @ s1.mT) @ m1 + (w2 @ s2.mT) @ m2, heads.value)
        queries = queries + _out(sums + (heads.value @ project.b2)[:, None], heads)
        queries = decoder.transformer.layer_norm_final_attn(queries)

        ious = decoder.iou_prediction_head(queries[:, 0])
        mixed = torch.cat([s1 * r12, s2 * r2], 1).mT @ (torch.cat([m1, m2], 1) @ project.fine)
        fine = side.fine() * r12.mT + mixed + self._fine_bias(project)
        return self._masks(fine, queries, wanted), ious

    def _fine_bias(self, project: Projections) -> Tensor:
        return project.b2 @ project.fine + self.sam.mask_decoder.upscale_conv1.bias.repeat(4)

    def _masks(self, fine: Tensor, queries: Tensor, wanted: Tensor) -> Tensor:
        """fine [P, N, 4 x 64], what the first upscaling gave -> low-res logits [P, M, 4G, 4G] of the `wanted` tokens."""
        decoder = self.sam.mask_decoder
        norm, conv = decoder.upscale_layer_norm, decoder.upscale_conv2
        prompts, cells, _ = fine.shape
        side = math.isqrt(cells)
        fine = F.gelu(
            F.layer_norm(fine.reshape(prompts, 4 * cells, -1), norm.weight.shape, norm.weight, norm.bias, norm.eps)
        )
        widen = conv.weight.permute(0, 2, 3, 1).reshape(conv.weight.shape[0], -1)
        fine = F.gelu(fine @ widen + conv.bias.repeat(4)).reshape(prompts, 16 * cells, -1)
        heads = [head(queries[:, 1 + k]) for k, head in enumerate(decoder.output_hypernetworks_mlps)]
        asked = torch.stack(heads, 1)[:, wanted]
        logits = asked @ fine.mT
        # a cell's 16 pixels lie as (row, column, row, column)
        pixels = logits.reshape(prompts, asked.shape[1], side, side, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
        return pixels.reshape(prompts, asked.shape[1], 4 * side, 4 * side)

    def _place(self) -> Tensor:
        return self.sam.grid_encoding().flatten(2)[0]


class PreparedGraph(_Decode):
    """Decodes prompts without masks over one prepared image."""

    def forward(
        self, points: Tensor, labels: Tensor, wanted: Tensor, prepared: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """points [P, K, 2], labels [P, K]: as DecoderGraph's; wanted [M]: which of the four masks. Returns low-res
        logits [P, M, 4G, 4G] and all predicted IoUs [P, 4].
        """
        return self._decode(Projections(self.sam), Prepared(prepared), self._place(), points, labels, wanted)


class FoldedGraph(_Decode):
    """Decodes prompts over image sides of their own, or over one that is not worth preparing."""

    def forward(
        self, points: Tensor, labels: Tensor, wanted: Tensor, embedding: Tensor, mask_input: Tensor, has_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As PreparedGraph; embedding [1, 256, G, G], mask_input [B, 1, 4G, 4G], has_mask [B], B being 1 or P."""
        dense = self.sam.embed_masks(mask_input, has_mask)
        project, place = Projections(self.sam), self._place()
        side = Raw(project, (embedding + dense).flatten(2), place)
        return self._decode(project, side, place, points, labels, wanted)


def _self_attention(layer: nn.Module, queries: Tensor, tokens: Tensor, residual: bool) -> Tensor:
    """The tokens' attention to each other, and the norm after it; SAM's first layer has neither encoding nor residual."""
    query = (queries + tokens if residual else queries)[:, None]
    attended, _ = layer.self_attn(query=query, key=query, value=queries[:, None])
    return layer.layer_norm1(queries + attended[:, 0] if residual else attended[:, 0])


def _heads(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[P, n, 256] -> [P, 8, n, 16]."""
    flat = F.linear(tokens, weight.flatten(0, 1), bias.flatten())
    return flat.unflatten(-1, weight.shape[:2]).transpose(1, 2)


def _fold(tokens: Tensor, weight: Tensor) -> Tensor:
    """[P, 8, n, 16] -> [P, 8n, 256]: the tokens by a projection's weights."""
    return (tokens @ weight).flatten(1, 2)


def _project(sums: Tensor, weight: Tensor) -> Tensor:
    """[P, 8n, 256] -> [P, 8, n, 16]."""
    return sums.unflatten(1, (weight.shape[0], -1)) @ weight.mT


def _out(values: Tensor, heads: Heads) -> Tensor:
    """[P, 8, n, 16] sums of values -> [P, n, 256], biases added."""
    flat = (values + heads.value_bias[:, None]).transpose(1, 2).flatten(2)
    return F.linear(flat, heads.out.flatten(0, 1).T, heads.out_bias)


def _on_place(tokens: Tensor, weight: Tensor, place: Tensor) -> Tensor:
    """[P, 8, n, 16] -> [P, 8n, N]: products with the projected positional encoding, a constant."""
    return (tokens @ (weight @ place)).flatten(1, 2)


def _share(scores: Tensor, tokens: Tensor) -> Tensor:
    """[P, 8n, N] scores -> [P, 8n, N] the softmax of each cell over the n tokens of each head."""
    apart = scores.unflatten(1, (tokens.shape[1], -1))
    weights = (apart - apart.amax(2, keepdim=True)).exp()
    return (weights / weights.sum(2, keepdim=True)).flatten(1, 2)
