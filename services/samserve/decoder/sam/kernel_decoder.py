"""SAM's mask decoder, rearranged to need a fifth of the multiplications and to work in cache.

SAM's two-way transformer carries an image side of N = 4096 cells x 256 channels through two layers.
Here it is never formed. Each layer adds to every cell a weighted sum of a few token values, S'M,
with S [8n, N] the attention of the cells to n tokens (8 heads) and M [8n, 256], and normalises the
cell. So after both layers a cell is

    keys2 = r2 (r1 (X + S1'M1) g1 + S2'M2) g2 + b2          r1, r2: one number per cell

The numbers r1 and r2 come from the cells' variances. All that the decoder reads of keys2 is linear:
scores q.Wk(keys2 + place), sums Wv(sum w keys2), the first upscaling. Each is then a product with X
and products of 8n x 8n x N. The product with X depends on the image alone and is computed once per
image (`prepare`).

The channels' means vanish because X, M1 and M2 are centred in advance: centring and g are linear,
so they become part of the projections (folding.py). Variances come from the projections too:
|X + S'M|^2 = |X|^2 + S(2 M X + M M'S).

A mask prompt adds W h + b to X, where h holds 16 features per cell. These are 17 more rows beside
S1's, with known M, so a mask prompt uses the same prepared image.

SAM 2 adds a token, and adds a finer map to the result of each upscaling. `prepare` arranges these
maps by cells.

The work on cells (kernel/image_passes.c) and on tokens (kernel/token_steps.c) is compiled. Source
of the function computed: SAM's and SAM 2's MaskDecoder, TwoWayTransformer and PromptEncoder; names
of weights are transformers'.

Shapes: n = 5 or 6 + K tokens; T = 8 n rows, head by head; H = 17 rows of a mask prompt, or 0; N
cells; G the embedding's side in cells.
"""

from __future__ import annotations

import numpy as np

from samserve.core.arrays import Array, Floats, Shorts
from samserve.core.embedding import Embedding
from samserve.core.family import FAMILIES, SAM, Family
from samserve.decoder.sam.backend import DecodeRequest
from samserve.decoder.sam.folding import image_projections, kernel_weights, variance_terms
from samserve.decoder.sam.kernel import (
    HEADS,
    MOST_TOKENS,
    TILE,
    DecodeJob,
    project,
    quantise,
    structs,
)
from samserve.decoder.sam.kernel_weights import (
    WeightLayout,
    centred,
    empty,
    group_by_cell,
    to_tiles,
)
from samserve.decoder.sam.prepared_image import PreparedImage, ReadyImage
from samserve.decoder.sam.prompt_encoder import MaskEncoder, PointEncoder
from samserve.decoder.sam.support import Tensors, rename_sam2_weights
from samserve.decoder.sam.threads import ThreadShare

VALUE_CHANNELS = 16  # of a head


class KernelDecoder:
    """Decodes prompts with the compiled kernel, for the models that `supports` accepts.

    Thread-safe: nothing in it changes.
    """

    def __init__(
        self, tensors: Tensors, side: int, frame: int, family: Family = FAMILIES[SAM]
    ) -> None:
        """Fold the weights.

        Args:
            tensors: Prompt encoder and mask decoder under transformers' names, fp32.
            side: The embedding's side in cells.
            frame: Side of the frame in pixels.
            family: Of the model.
        """
        tensors = rename_sam2_weights(tensors)
        self._family = family
        self._side = side
        self._cells = side**2

        self._points = PointEncoder(tensors, frame)
        self._masks = MaskEncoder(tensors)
        self._place = to_tiles(self._points.grid(side))  # [tiles, 256, 64]

        fixed_tokens = [tensors[f"mask_decoder.{name}.weight"] for name in family.token_weights]
        self._fixed_tokens = np.concatenate(fixed_tokens)  # [5 or 6, 256]
        self.most_points = MOST_TOKENS - len(self._fixed_tokens)

        self._gain1 = tensors["mask_decoder.transformer.layers.0.layer_norm4.weight"]
        self._projections = image_projections(tensors)
        self._variance_terms = variance_terms(tensors)
        self._layout = WeightLayout(tensors, family.norm_epsilon)
        self._weights = kernel_weights(
            tensors, self._layout, self._masks, self._place, family.norm_epsilon
        )

    def prepare(self, embedding: Embedding, threads: ThreadShare) -> PreparedImage:
        """Do the work that all prompts on an image share.

        It takes some 3.5 GFLOP, as much as a few prompts.
        """
        # X [tiles, 256, 64]: the image as SAM's transformer gets it from a prompt without a mask.
        coarse = embedding.tensors["embedding"].astype(np.float32)
        x = to_tiles(coarse.reshape(len(coarse), -1) + self._masks.no_mask[:, None])
        placed = x + self._place

        # The products with X, as 16-bit integers.
        def compute(name: str) -> tuple[Shorts, Floats]:
            projection = self._projections[name]
            projected = empty(len(x), len(projection.weight), TILE)
            source = placed if projection.placed else x
            project(projection.weight, source, projected, 0, self._cells)
            return quantise(projected, projection.cells_first)

        results = threads.map(compute, self._projections)
        parts: dict[str, Array] = {}
        for name, (integers, scale) in zip(self._projections, results, strict=True):
            parts[name] = integers
            parts[f"{name}_scale"] = scale

        for name in self._family.fine_maps:
            parts[name] = group_by_cell(embedding.tensors[name], self._side)

        parts |= self._squares(x)
        return PreparedImage(x, parts)

    def _squares(self, x: Floats) -> dict[str, Floats]:
        """The part of the cells' variances that depends on the image alone, [tiles, 64] each.

        With C for centring: square0 = |CX|^2, square1 = |C(g1 CX)|^2, each with its linear term;
        cross1 is the linear term of the second layer's constant.
        """
        g1 = self._gain1[:, None]
        once_centred = x - x.mean(1, keepdims=True)
        twice_centred = once_centred * g1
        twice_centred -= twice_centred.mean(1, keepdims=True)

        terms = self._variance_terms
        return {
            "square0": _row_products(once_centred, once_centred) + terms.first @ once_centred,
            "square1": _row_products(twice_centred, twice_centred) + terms.second @ once_centred,
            "cross1": terms.cross @ twice_centred,
        }

    def decode(
        self, image: ReadyImage, request: DecodeRequest, threads: ThreadShare
    ) -> tuple[Floats, Floats]:
        """Decode one prompt; see `DecoderBackend.decode`."""
        tokens = np.concatenate([self._fixed_tokens, self._points(request.points, request.labels)])
        dense_rows = self._masks(request.mask_input)  # [tiles, H, 64]

        # What a pass leaves for the next one, and what the kernel returns. IoUs are padded to 64.
        rows = HEADS * len(tokens)
        between_passes = {
            "s1": empty(rows, self._cells),
            "s2": empty(rows, self._cells),
            "r1": empty(self._cells),
            "r2": empty(self._cells),
        }
        logits = empty(len(request.wanted), 4 * self._side, 4 * self._side)
        ious = empty(TILE)

        arrays = {
            **image.prepared.parts,
            **between_passes,
            "dense_rows": dense_rows,
            "logits": logits,
            "ious": ious,
        }
        if request.mask_input is not None:
            arrays |= self._squares_with_mask(image.prepared, dense_rows, threads)

        # Steps on the tokens alternate with passes over the cells.
        job = DecodeJob(self._weights, tokens, request.wanted, arrays)
        h = dense_rows.shape[1]
        job.run_tokens("begin", [])
        job.run_tokens("first", _run_pass(threads, job, "first", rows, [h]))
        job.run_tokens("second", _run_pass(threads, job, "second", rows, [rows + h]))
        job.run_tokens("last", _run_pass(threads, job, "third", rows, [rows + h, rows]))

        all_ious: Array = ious[: structs.MOST_MASKS]
        if self._family.sigmoid_iou:
            all_ious = 1 / (1 + np.exp(-all_ious))

        # The masks take two fifths of the time.
        if (all_ious[request.wanted] <= request.least_iou).all():
            return logits[:0], all_ious
        threads.map_spans(lambda first, last: job.run_pass("masks", first, last))
        return logits, all_ious

    def _squares_with_mask(
        self, image: PreparedImage, dense_rows: Floats, threads: ThreadShare
    ) -> dict[str, Floats]:
        """The cells' squares with a mask prompt's part: |C(X + M'h)|^2 and the same after g1.

        Both grow by h(2 M X + M M'h), with M [H, 256] centred like the image.
        """
        g1 = self._gain1
        m0 = centred(self._masks.matrix)
        m1 = centred(m0 * g1)

        # M X for both, in one product over the cells: [tiles, 2 H, 64].
        matrices = np.concatenate([m0, centred(g1 * centred(m1))])
        products = empty(len(dense_rows), len(matrices), TILE)
        threads.map_spans(lambda first, last: project(matrices, image.x, products, first, last))
        products0 = products[:, : len(m0)]
        products1 = products[:, len(m0) :]

        growth0 = _row_products(dense_rows, 2 * products0 + (m0 @ m0.T) @ dense_rows)
        growth1 = _row_products(dense_rows, 2 * products1 + (m1 @ m1.T) @ dense_rows)
        return {
            "square0": image.parts["square0"] + growth0,
            "square1": image.parts["square1"] + growth1,
        }


def _row_products(a: Array, b: Array) -> Floats:
    """[tiles, R, 64] twice -> [tiles, 64]: each cell's sum over the rows of a x b."""
    sums: Floats = np.einsum("trc,trc->tc", a, b)
    return sums


def _run_pass(
    threads: ThreadShare, job: DecodeJob, name: str, rows: int, mixed: list[int]
) -> list[Floats]:
    """Run a pass over all cells.

    Args:
        threads: That share the cells.
        job: The prompt.
        name: Of the pass.
        rows: T.
        mixed: How many rows of each kind the pass sums up in addition to the values.

    Returns:
        For each thread an array [T, width]: the largest score, the total of the weights, the sums
        of the values, and the sums of each kind of rows, padded to whole tiles.
    """
    padded_rows = sum(-(-count // TILE) * TILE for count in mixed)
    width = 2 + VALUE_CHANNELS + padded_rows

    def work(first: int, last: int) -> Floats:
        out = empty(rows, width)
        job.run_pass(name, first, last, out)
        return out

    return threads.map_spans(work)
