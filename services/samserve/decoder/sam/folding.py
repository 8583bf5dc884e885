"""What of the rearranged decoder depends on the weights alone; kernel_decoder.py has the algebra.

Names of weights are transformers'.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from samserve.core.arrays import Floats
from samserve.decoder.sam.kernel import TILE, structs
from samserve.decoder.sam.kernel_weights import EPSILON, WeightLayout, centred
from samserve.decoder.sam.prompt_encoder import MaskEncoder
from samserve.decoder.sam.support import TRANSFORMER, Tensors

LAST_EPSILON = 1e-5  # of the LayerNorm after the last attention: PyTorch's default

FIRST = f"{TRANSFORMER}.layers.0"
SECOND = f"{TRANSFORMER}.layers.1"
LAST = f"{TRANSFORMER}.final_attn_token_to_image"


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """A linear function of the image that is computed once per image.

    Attributes:
        weight: [channels, 256].
        placed: Whether it is of the image with its positional encoding.
        cells_first: Whether the kernel reads it as [N, channels] instead of [tiles, channels, 64].
    """

    weight: Floats
    placed: bool = False
    cells_first: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class VarianceTerms:
    """The linear terms of the cells' variances, [256] each, from the constants of the layers.

    Attributes:
        first: Of |X + b|^2 after the first layer.
        second: Of the same image side, normalised and scaled, at the second layer.
        cross: Of the product of that image side and the second layer's constant.
    """

    first: Floats
    second: Floats
    cross: Floats


def image_projections(tensors: Tensors) -> dict[str, Projection]:
    """Return the projections of the image X, by the kernel's names for their results.

    A LayerNorm centres the image side and multiplies it by a gain g. Both are linear, so they are
    folded into the projections that follow; only the division by the deviation is left to the
    kernel.
    """
    g1 = tensors[f"{FIRST}.layer_norm4.weight"]
    g2 = tensors[f"{SECOND}.layer_norm4.weight"]
    upscale1, _ = first_upscaling(tensors)

    # Values that the layers add to the image side, [128, 256].
    out0 = np.ascontiguousarray(_from_image(tensors, FIRST, "out").T)
    out1 = np.ascontiguousarray(_from_image(tensors, SECOND, "out").T)

    def after_first(weight: Floats) -> Floats:
        """A projection of the image side after the first LayerNorm."""
        return centred(weight * g1)

    def after_second(weight: Floats) -> Floats:
        """A projection of the image side after both, g2 being part of the weight."""
        return after_first(centred(weight))

    return {
        # First layer: X itself.
        "key0": Projection(_to_image(tensors, FIRST, "k"), placed=True),
        "value0": Projection(_to_image(tensors, FIRST, "v"), cells_first=True),
        "query0": Projection(_from_image(tensors, FIRST, "q"), placed=True),
        "out0": Projection(centred(out0)),
        # Second layer. The positional encoding is added by the kernel from here on, because it is
        # not normalised.
        "key1": Projection(after_first(_to_image(tensors, SECOND, "k"))),
        "value1": Projection(after_first(_to_image(tensors, SECOND, "v")), cells_first=True),
        "query1": Projection(after_first(_from_image(tensors, SECOND, "q"))),
        "norm1": Projection(after_second(after_first(centred(out0)))),
        "out1": Projection(after_second(out1)),
        # Last attention and the first upscaling.
        "key2": Projection(after_second(tensors[f"{LAST}.k_proj.weight"] * g2)),
        "value2": Projection(after_second(tensors[f"{LAST}.v_proj.weight"] * g2), cells_first=True),
        "upscaled": Projection(after_second(upscale1 * g2)),
    }


def variance_terms(tensors: Tensors) -> VarianceTerms:
    """Return the linear terms of the cells' variances."""
    g1 = tensors[f"{FIRST}.layer_norm4.weight"]
    bias0, bias1 = _image_biases(tensors)
    return VarianceTerms(
        first=2 * bias0,
        second=2 * centred(g1 * centred(g1 * centred(bias0))),
        cross=2 * bias1,
    )


def kernel_weights(
    tensors: Tensors, layout: WeightLayout, masks: MaskEncoder, place: Floats, epsilon: float
) -> structs.Weights:
    """Fill the structure of everything that the kernel reads of a checkpoint.

    Args:
        tensors: The decoder's weights.
        layout: Of the same weights; the caller keeps it alive.
        masks: Encodes mask prompts.
        place: The cells' positional encoding, [tiles, 256, 64].
        epsilon: Of the LayerNorms in the transformer.
    """
    g2 = tensors[f"{SECOND}.layer_norm4.weight"]
    b1 = tensors[f"{FIRST}.layer_norm4.bias"]
    b2 = tensors[f"{SECOND}.layer_norm4.bias"]
    bias0, bias1 = _image_biases(tensors)

    # The kernel multiplies rows of 64 numbers: pad [256, H] to [256, 64].
    dense_padding = (0, 0), (0, TILE - len(masks.matrix))
    dense_transposed = np.pad(masks.matrix.T, dense_padding)

    norm = "mask_decoder.upscale_layer_norm"
    upscale1, upscale1_bias = first_upscaling(tensors)
    upscale2, upscale2_bias = second_upscaling(tensors)

    weights = structs.Weights(
        first=layout.layer(FIRST, np.zeros_like(b1), bias0),
        second=layout.layer(SECOND, b1, bias1),
        last=layout.to_image(LAST, b2),
        last_norm=layout.norm(f"{TRANSFORMER}.layer_norm_final_attn", LAST_EPSILON),
        iou=layout.mlp("mask_decoder.iou_prediction_head"),
        gain1=layout.floats(tensors[f"{FIRST}.layer_norm4.weight"]),
        gain2=layout.floats(g2),
        dense=layout.floats(masks.matrix),
        dense_transposed=layout.floats(dense_transposed),
        upscale1=layout.floats(upscale1 * g2),
        upscale1_bias=layout.floats(upscale1 @ b2 + upscale1_bias),
        upscale_norm_weight=layout.floats(tensors[f"{norm}.weight"]),
        upscale_norm_bias=layout.floats(tensors[f"{norm}.bias"]),
        upscale2=layout.floats(upscale2),
        upscale2_bias=layout.floats(upscale2_bias),
        place_key1=layout.floats(_to_image(tensors, SECOND, "k") @ place),
        place_query1=layout.floats(_from_image(tensors, SECOND, "q") @ place),
        place_key2=layout.floats(tensors[f"{LAST}.k_proj.weight"] @ place),
        epsilon1=epsilon,
        epsilon2=epsilon,
        upscale_epsilon=EPSILON,
    )
    for mask in range(structs.MOST_MASKS):
        weights.hyper[mask] = layout.mlp(f"mask_decoder.output_hypernetworks_mlps.{mask}")

    return weights


def first_upscaling(tensors: Tensors) -> tuple[Floats, Floats]:
    """Return the first transposed convolution as a product: weight [4 x 64, 256], bias [4 x 64]."""
    weight = tensors["mask_decoder.upscale_conv1.weight"]
    matrix = np.ascontiguousarray(weight.transpose(2, 3, 1, 0).reshape(-1, len(weight)))
    return matrix, np.tile(tensors["mask_decoder.upscale_conv1.bias"], 4)


def second_upscaling(tensors: Tensors) -> tuple[Floats, Floats]:
    """Return the second transposed convolution: weight [4 x 32, 64], bias [4 x 32]."""
    weight = tensors["mask_decoder.upscale_conv2.weight"]
    matrix = weight.transpose(2, 3, 1, 0).reshape(-1, len(weight))
    return matrix, np.tile(tensors["mask_decoder.upscale_conv2.bias"], 4)


def _image_biases(tensors: Tensors) -> tuple[Floats, Floats]:
    """The constants that the two layers add to every cell, [256] each.

    The second contains the first LayerNorm's bias.
    """
    b1 = tensors[f"{FIRST}.layer_norm4.bias"]
    bias0 = tensors[f"{FIRST}.cross_attn_image_to_token.out_proj.bias"]
    bias1 = tensors[f"{SECOND}.cross_attn_image_to_token.out_proj.bias"]
    return bias0, centred(bias1 + b1)


def _to_image(tensors: Tensors, layer: str, part: str) -> Floats:
    weight: Floats = tensors[f"{layer}.cross_attn_token_to_image.{part}_proj.weight"]
    return weight


def _from_image(tensors: Tensors, layer: str, part: str) -> Floats:
    weight: Floats = tensors[f"{layer}.cross_attn_image_to_token.{part}_proj.weight"]
    return weight
