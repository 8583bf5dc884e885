/**
 * What of the rearranged decoder depends on the weights alone.
 *
 * The server's samserve/decoder/sam/folding.py does the same; its kernel_decoder.py has the algebra.
 */

import type { Kernel } from "./memory.js";
import { Matrix, add, centred, multiply, scale } from "./matrix.js";
import { TILE, type MaskEncoder } from "./prompt_encoder.js";
import { float, pointer, struct } from "./structs.js";
import type { Tensors } from "./tensors.js";
import { WeightLayout } from "./weights.js";

const LAST_EPSILON = 1e-5; // of the LayerNorm after the last attention
const UPSCALE_EPSILON = 1e-6;

const TRANSFORMER = "mask_decoder.transformer";
const FIRST = `${TRANSFORMER}.layers.0`;
const SECOND = `${TRANSFORMER}.layers.1`;
const LAST = `${TRANSFORMER}.final_attn_token_to_image`;

const MOST_MASKS = 4;

/** A linear function of the image that is computed once for each image. */
export interface Projection {
  /** The kernel's name for the result. */
  name: string;
  weight: Matrix; // [channels, 256]
  /** Whether it is of the image with its positional encoding. */
  placed: boolean;
  /** Whether the kernel reads it as [N, channels] instead of [tiles, channels, 64]. */
  cellsFirst: boolean;
}

/** The linear terms of the cells' variances, [256] each. */
export interface VarianceTerms {
  first: Float32Array;
  second: Float32Array;
  cross: Float32Array;
}

export function imageProjections(tensors: Tensors): Projection[] {
  const g1 = tensors.vector(`${FIRST}.layer_norm4.weight`);
  const g2 = tensors.vector(`${SECOND}.layer_norm4.weight`);
  const out0 = fromImage(tensors, FIRST, "out").transposed.centred; // [128, 256]
  const out1 = fromImage(tensors, SECOND, "out").transposed;

  const afterFirst = (weight: Matrix) => weight.scaled(g1).centred;
  const afterSecond = (weight: Matrix) => afterFirst(weight.centred);
  const last = (part: string) => afterSecond(tensors.matrix(`${LAST}.${part}_proj.weight`).scaled(g2));
  const plain = (name: string, weight: Matrix): Projection => ({ name, weight, placed: false, cellsFirst: false });
  const placed = (name: string, weight: Matrix): Projection => ({ ...plain(name, weight), placed: true });
  const values = (name: string, weight: Matrix): Projection => ({ ...plain(name, weight), cellsFirst: true });

  return [
    placed("key0", toImage(tensors, FIRST, "k")),
    values("value0", toImage(tensors, FIRST, "v")),
    placed("query0", fromImage(tensors, FIRST, "q")),
    plain("out0", out0),
    plain("key1", afterFirst(toImage(tensors, SECOND, "k"))),
    values("value1", afterFirst(toImage(tensors, SECOND, "v"))),
    plain("query1", afterFirst(fromImage(tensors, SECOND, "q"))),
    plain("norm1", afterSecond(afterFirst(out0))),
    plain("out1", afterSecond(out1)),
    plain("key2", last("k")),
    values("value2", last("v")),
    plain("upscaled", afterSecond(upscaling(tensors, 1).scaled(g2))),
  ];
}

export function varianceTerms(tensors: Tensors): VarianceTerms {
  const g1 = tensors.vector(`${FIRST}.layer_norm4.weight`);
  const [bias0, bias1] = imageBiases(tensors);
  return {
    first: scale(bias0, 2),
    second: scale(centred(multiply(g1, centred(multiply(g1, centred(bias0))))), 2),
    cross: scale(bias1, 2),
  };
}

/**
 * Write the structure of everything that the kernel reads of a checkpoint; returns its address.
 *
 * @param place - address of the cells' positional encoding, [tiles, 256, 64]
 */
export function putWeights(
  kernel: Kernel,
  tensors: Tensors,
  masks: MaskEncoder,
  place: number,
  cells: number,
  epsilon: number,
): number {
  const layout = new WeightLayout(kernel, tensors, epsilon);
  const g1 = tensors.vector(`${FIRST}.layer_norm4.weight`);
  const g2 = tensors.vector(`${SECOND}.layer_norm4.weight`);
  const b1 = tensors.vector(`${FIRST}.layer_norm4.bias`);
  const b2 = tensors.vector(`${SECOND}.layer_norm4.bias`);
  const [bias0, bias1] = imageBiases(tensors);
  const dense = masks.matrix; // [17, 256]

  const projected = (weight: Matrix): number => {
    const from = kernel.put(weight.data);
    const to = kernel.reserve(4 * weight.rows * cells);
    kernel.project(from, place, to, weight.rows, weight.columns, cells);
    kernel.free(from);
    return to;
  };

  const norm = "mask_decoder.upscale_layer_norm";
  const upscale1 = upscaling(tensors, 1);
  const upscale1Bias = tiled(tensors.vector("mask_decoder.upscale_conv1.bias"));
  const hyper = Array.from({ length: MOST_MASKS }, (_, mask) =>
    layout.mlp(`mask_decoder.output_hypernetworks_mlps.${mask}`),
  ).flat();

  return kernel.putStruct(
    struct(
      layout.layer(FIRST, new Float32Array(b1.length), bias0),
      layout.layer(SECOND, b1, bias1),
      layout.toImage(LAST, b2),
      layout.norm(`${TRANSFORMER}.layer_norm_final_attn`, LAST_EPSILON),
      ...hyper,
      ...layout.mlp("mask_decoder.iou_prediction_head"),
      pointer(layout.floats(g1)),
      pointer(layout.floats(g2)),
      pointer(layout.matrix(dense)),
      pointer(layout.matrix(Matrix.of(dense.columns, TILE, (r, c) => (c < dense.rows ? dense.at(c, r) : 0)))),
      pointer(layout.matrix(upscale1.scaled(g2))),
      pointer(layout.floats(add(upscale1.times(b2), upscale1Bias))),
      pointer(layout.floats(tensors.vector(`${norm}.weight`))),
      pointer(layout.floats(tensors.vector(`${norm}.bias`))),
      pointer(layout.matrix(upscaling(tensors, 2))),
      pointer(layout.floats(tiled(tensors.vector("mask_decoder.upscale_conv2.bias")))),
      pointer(projected(toImage(tensors, SECOND, "k"))),
      pointer(projected(fromImage(tensors, SECOND, "q"))),
      pointer(projected(tensors.matrix(`${LAST}.k_proj.weight`))),
      float(epsilon),
      float(epsilon),
      float(UPSCALE_EPSILON),
    ),
  );
}

/** The gain of the image side's first LayerNorm, [256]. */
export function firstGain(tensors: Tensors): Float32Array {
  return tensors.vector(`${FIRST}.layer_norm4.weight`);
}

/** A transposed convolution of 2 x 2 pixels as a product: [4 x channels, inputs]. */
function upscaling(tensors: Tensors, number: number): Matrix {
  const { shape, data } = tensors.tensor(`mask_decoder.upscale_conv${number}.weight`); // [inputs, channels, 2, 2]
  const [inputs, channels] = [shape[0]!, shape[1]!];
  return Matrix.of(4 * channels, inputs, (row, input) => {
    const pixel = Math.floor(row / channels);
    return data[(input * channels + (row % channels)) * 4 + pixel]!;
  });
}

function tiled(bias: Float32Array): Float32Array {
  return Float32Array.from({ length: 4 * bias.length }, (_, i) => bias[i % bias.length]!);
}

/** The constants that the two layers add to every cell; the second has the first norm's bias. */
function imageBiases(tensors: Tensors): [Float32Array, Float32Array] {
  const bias = (layer: string) => tensors.vector(`${layer}.cross_attn_image_to_token.out_proj.bias`);
  return [bias(FIRST), centred(add(bias(SECOND), tensors.vector(`${FIRST}.layer_norm4.bias`)))];
}

const toImage = (tensors: Tensors, layer: string, part: string): Matrix =>
  tensors.matrix(`${layer}.cross_attn_token_to_image.${part}_proj.weight`);

const fromImage = (tensors: Tensors, layer: string, part: string): Matrix =>
  tensors.matrix(`${layer}.cross_attn_image_to_token.${part}_proj.weight`);
