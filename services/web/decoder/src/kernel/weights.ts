/** The weights of SAM's mask decoder, laid out for the kernel. */

import { fromHalf, toHalves } from "../sam/half.js";
import { Matrix, add, centred, scale } from "./matrix.js";
import type { Kernel } from "./memory.js";
import { TILE } from "./prompt_encoder.js";
import { float, integer, pointer, struct, type Struct } from "./structs.js";
import type { Tensors } from "./tensors.js";

export const HEADS = 8;
const LARGEST_SHORT = 32767;

export class WeightLayout {
  constructor(
    private readonly kernel: Kernel,
    private readonly tensors: Tensors,
    private readonly epsilon: number, // of the LayerNorms in the transformer
  ) {}

  /** Copy fp32 numbers; returns their address. */
  floats(numbers: Float32Array): number {
    return this.kernel.put(numbers);
  }

  /**
   * Pack numbers into 16 bits: fp16 if that is exact, otherwise integers with a scale.
   *
   * @param data - [blocks, inner, outer]
   * @param perOuter - a scale for each [block, outer], or else for each [block, inner]
   */
  packed(data: Float32Array, blocks: number, inner: number, outer: number, perOuter: boolean): Struct {
    const scales = blocks * (perOuter ? outer : inner);
    const halves = toHalves(data);
    const exact = fromHalf(halves);
    if (data.every((value, i) => value === exact[i])) {
      return struct(pointer(this.kernel.put(halves)), pointer(this.floats(new Float32Array(scales).fill(1))), integer(1));
    }

    const scaleOf = (i: number) => {
      const block = Math.floor(i / (inner * outer));
      return perOuter ? block * outer + (i % outer) : Math.floor(i / outer);
    };
    const by = new Float32Array(scales);
    data.forEach((value, i) => (by[scaleOf(i)] = Math.max(by[scaleOf(i)]!, Math.abs(value))));
    by.forEach((largest, i) => (by[i] = largest > 0 ? largest / LARGEST_SHORT : 1));
    const integers = Int16Array.from(data, (value, i) => Math.round(value / by[scaleOf(i)]!));
    return struct(pointer(this.kernel.put(integers)), pointer(this.floats(by)), integer(0));
  }

  /** A linear layer, its outputs padded to whole tiles: [outer / 64, inner, 64]. */
  linear(name: string): Struct {
    const weight = this.tensors.matrix(`${name}.weight`); // [outer, inner]
    const bias = this.tensors.vector(`${name}.bias`);
    const outer = Math.ceil(weight.rows / TILE) * TILE;
    const inner = weight.columns;

    const tiles = new Float32Array(outer * inner);
    for (let o = 0; o < weight.rows; o++)
      for (let i = 0; i < inner; i++) {
        tiles[(Math.floor(o / TILE) * inner + i) * TILE + (o % TILE)] = weight.at(o, i);
      }
    const padded = new Float32Array(outer);
    padded.set(bias);
    return struct(
      this.packed(tiles, outer / TILE, inner, TILE, true),
      pointer(this.floats(padded)),
      integer(inner),
      integer(outer),
    );
  }

  /** Three linear layers; the kernel puts ReLUs between them. */
  mlp(name: string): Struct[] {
    return ["proj_in", "layers.0", "proj_out"].map((part) => this.linear(`${name}.${part}`));
  }

  norm(name: string, epsilon = this.epsilon): Struct {
    return struct(
      pointer(this.floats(this.tensors.vector(`${name}.weight`))),
      pointer(this.floats(this.tensors.vector(`${name}.bias`))),
      float(epsilon),
    );
  }

  /**
   * A layer of the transformer.
   *
   * @param imageBias - [256], the constant part of the image side before the layer
   * @param outBias - [256], the constant that the layer adds to the image side
   */
  layer(name: string, imageBias: Float32Array, outBias: Float32Array): Struct {
    return struct(
      struct(...["q", "k", "v", "out"].map((part) => this.linear(`${name}.self_attn.${part}_proj`))),
      this.norm(`${name}.layer_norm1`),
      this.norm(`${name}.layer_norm2`),
      this.norm(`${name}.layer_norm3`),
      this.toImage(`${name}.cross_attn_token_to_image`, imageBias),
      this.linear(`${name}.mlp.lin1`),
      this.linear(`${name}.mlp.lin2`),
      this.fromImage(`${name}.cross_attn_image_to_token`, imageBias, outBias),
    );
  }

  /** An attention of the tokens to the image; see `layer`. */
  toImage(name: string, imageBias: Float32Array): Struct {
    const key = this.tensors.matrix(`${name}.k_proj.weight`); // [128, 256]
    const value = this.tensors.matrix(`${name}.v_proj.weight`);
    const head = value.rows / HEADS;
    const channels = value.columns;

    const byHead = new Float32Array(value.data.length); // [8, 256, 16]
    for (let h = 0, i = 0; h < HEADS; h++)
      for (let c = 0; c < channels; c++) for (let k = 0; k < head; k++) byHead[i++] = value.at(h * head + k, c);

    return struct(
      this.linear(`${name}.q_proj`),
      this.linear(`${name}.out_proj`),
      this.packed(key.data, 1, key.rows, key.columns, false),
      this.packed(byHead, HEADS, channels, head, true),
      pointer(this.floats(add(this.tensors.vector(`${name}.v_proj.bias`), value.times(imageBias)))),
    );
  }

  private fromImage(name: string, imageBias: Float32Array, outBias: Float32Array): Struct {
    const query = this.tensors.matrix(`${name}.q_proj.weight`); // [128, 256]
    const out = this.tensors.matrix(`${name}.out_proj.weight`).transposed; // [128, 256]
    return struct(
      this.linear(`${name}.k_proj`),
      this.linear(`${name}.v_proj`),
      this.packed(query.data, 1, query.rows, query.columns, false),
      this.packed(out.data, 1, out.rows, out.columns, false),
      pointer(this.floats(add(this.tensors.vector(`${name}.q_proj.bias`), query.times(imageBias)))),
      // Added to every value row: a cell gets it from each head.
      pointer(this.floats(scale(centred(outBias), 1 / HEADS))),
    );
  }

  matrix(weight: Matrix): number {
    return this.floats(weight.data);
  }
}
