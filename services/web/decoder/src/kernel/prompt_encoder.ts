/** SAM's encoding of prompts: points and box corners to tokens, a mask to rows beside the image. */

import { Matrix, add, scale } from "./matrix.js";
import type { Tensors } from "./tensors.js";

export const TILE = 64;
const PAD_LABEL = -1;
const POINT_KINDS = 4; // background, foreground, a box's first and second corner
const EPSILON = 1e-6; // of the LayerNorms over a map's channels

/** Encodes points and box corners. */
export class PointEncoder {
  private readonly kinds: Float32Array[];
  private readonly padding: Float32Array;
  private readonly frequencies: Matrix; // [2, channels / 2]

  constructor(
    tensors: Tensors,
    private readonly frame: number,
  ) {
    this.kinds = Array.from({ length: POINT_KINDS }, (_, kind) =>
      tensors.vector(`prompt_encoder.point_embed.${kind}.weight`),
    );
    this.padding = tensors.vector("prompt_encoder.not_a_point_embed.weight");
    this.frequencies = tensors.matrix("prompt_encoder.shared_embedding.positional_embedding");
  }

  /** Points [K, 2] in frame pixels and labels [K] -> [K, 256]. */
  encode(points: Float32Array, labels: Float32Array): Float32Array {
    const channels = this.padding.length;
    const tokens = new Float32Array(labels.length * channels);
    labels.forEach((label, k) => {
      const x = (points[2 * k]! + 0.5) / this.frame;
      const y = (points[2 * k + 1]! + 0.5) / this.frame;
      const token = label === PAD_LABEL ? this.padding : add(this.place(x, y), this.kinds[label]!);
      tokens.set(token, k * channels);
    });
    return tokens;
  }

  /** The encodings of the centres of side x side cells, [tiles, 256, 64]. */
  grid(side: number): Float32Array {
    const channels = this.padding.length;
    const out = new Float32Array(side * side * channels);
    for (let cell = 0; cell < side * side; cell++) {
      const place = this.place(((cell % side) + 0.5) / side, (Math.floor(cell / side) + 0.5) / side);
      const base = Math.floor(cell / TILE) * channels * TILE + (cell % TILE);
      for (let c = 0; c < channels; c++) out[base + c * TILE] = place[c]!;
    }
    return out;
  }

  /** x and y from 0 to 1 -> [256]. */
  private place(x: number, y: number): Float32Array {
    const half = this.frequencies.columns;
    const out = new Float32Array(2 * half);
    for (let c = 0; c < half; c++) {
      const at = (2 * x - 1) * this.frequencies.at(0, c) + (2 * y - 1) * this.frequencies.at(1, c);
      out[c] = Math.sin(2 * Math.PI * at);
      out[half + c] = Math.cos(2 * Math.PI * at);
    }
    return out;
  }
}

/** Encodes a mask prompt up to the last layer, which is linear and left to the kernel. */
export class MaskEncoder {
  /** [17, 256]: what the rows beside the image add to it. */
  readonly matrix: Matrix;
  /** [256]: what a prompt without a mask adds to every cell. */
  readonly noMask: Float32Array;
  private readonly downscalings: Downscaling[];

  constructor(tensors: Tensors) {
    const name = "prompt_encoder.mask_embed";
    this.downscalings = [1, 2].map((number) => new Downscaling(tensors, name, number));
    this.noMask = tensors.vector("prompt_encoder.no_mask_embed.weight");

    // The image contains noMask already, so the constant takes it away.
    const last = tensors.matrix(`${name}.conv3.weight`); // [256, 16]
    const constant = add(tensors.vector(`${name}.conv3.bias`), scale(this.noMask, -1));
    this.matrix = Matrix.of(last.columns + 1, last.rows, (r, c) =>
      r < last.columns ? last.at(c, r) : constant[c]!,
    );
  }

  get rows(): number {
    return this.matrix.rows;
  }

  /** Low-res logits [side, side] -> [tiles, 17, 64]. */
  encode(logits: Float32Array, side: number): Float32Array {
    let map = logits;
    let length = side;
    for (const downscaling of this.downscalings) {
      map = downscaling.apply(map, length);
      length /= 2;
    }

    const cells = length * length;
    const features = this.rows - 1;
    const out = new Float32Array(cells * this.rows);
    for (let cell = 0; cell < cells; cell++) {
      const base = Math.floor(cell / TILE) * this.rows * TILE + (cell % TILE);
      for (let f = 0; f < features; f++) out[base + f * TILE] = map[f * cells + cell]!;
      out[base + features * TILE] = 1;
    }
    return out;
  }
}

/** A convolution of 2 x 2 pixels, a LayerNorm over the channels, and GELU. */
class Downscaling {
  private readonly weight: Matrix; // [channels, inputs x 4]
  private readonly bias: Float32Array;
  private readonly normWeight: Float32Array;
  private readonly normBias: Float32Array;

  constructor(tensors: Tensors, name: string, number: number) {
    this.weight = tensors.matrix(`${name}.conv${number}.weight`);
    this.bias = tensors.vector(`${name}.conv${number}.bias`);
    this.normWeight = tensors.vector(`${name}.layer_norm${number}.weight`);
    this.normBias = tensors.vector(`${name}.layer_norm${number}.bias`);
  }

  /** [inputs, 2 S, 2 S] -> [channels, S, S] */
  apply(map: Float32Array, length: number): Float32Array {
    const half = length / 2;
    const channels = this.weight.rows;
    const inputs = this.weight.columns / 4;
    const out = new Float32Array(channels * half * half);
    const patch = new Float32Array(this.weight.columns);
    const pixel = new Float64Array(channels);

    for (let y = 0; y < half; y++)
      for (let x = 0; x < half; x++) {
        for (let i = 0; i < inputs; i++) {
          const at = (i * length + 2 * y) * length + 2 * x;
          patch[4 * i] = map[at]!;
          patch[4 * i + 1] = map[at + 1]!;
          patch[4 * i + 2] = map[at + length]!;
          patch[4 * i + 3] = map[at + length + 1]!;
        }

        let mean = 0;
        for (let c = 0; c < channels; c++) {
          let sum = this.bias[c]!;
          for (let k = 0; k < patch.length; k++) sum += this.weight.at(c, k) * patch[k]!;
          pixel[c] = sum;
          mean += sum / channels;
        }
        let variance = 0;
        for (let c = 0; c < channels; c++) variance += (pixel[c]! - mean) ** 2 / channels;
        const by = 1 / Math.sqrt(variance + EPSILON);
        for (let c = 0; c < channels; c++) {
          out[(c * half + y) * half + x] = gelu((pixel[c]! - mean) * by * this.normWeight[c]! + this.normBias[c]!);
        }
      }
    return out;
  }
}

/** Exact GELU; the error function by Abramowitz and Stegun 7.1.26. */
function gelu(x: number): number {
  const z = Math.abs(x) * Math.SQRT1_2;
  const t = 1 / (z * 0.3275911 + 1);
  const tail =
    ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t * Math.exp(-z * z);
  return x * 0.5 + Math.abs(x) * 0.5 * (1 - tail);
}
