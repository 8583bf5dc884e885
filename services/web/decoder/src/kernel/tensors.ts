/** A decoder's weights by transformers' names for SAM. */

import { SamserveError } from "../errors.js";
import type { Tensor } from "../sam/safetensors.js";
import { Matrix } from "./matrix.js";

const SAM2_RENAMES: [string, string][] = [
  [".o_proj.", ".out_proj."],
  [".mlp.proj_in.", ".mlp.lin1."],
  [".mlp.proj_out.", ".mlp.lin2."],
];

export class Tensors {
  private readonly byName = new Map<string, Tensor>();

  /** Take the weights; SAM 2's get the names that SAM's have. */
  constructor(tensors: Map<string, Tensor>) {
    for (const [name, tensor] of tensors) {
      this.byName.set(SAM2_RENAMES.reduce((text, [from, to]) => text.replaceAll(from, to), name), tensor);
    }

    // SAM 2 has one array for the four kinds of points, SAM has four arrays.
    const kinds = this.byName.get("prompt_encoder.point_embed.weight");
    if (kinds) {
      const width = kinds.shape[1]!;
      for (let kind = 0; kind < kinds.shape[0]!; kind++) {
        const row = kinds.data.subarray(kind * width, (kind + 1) * width);
        this.byName.set(`prompt_encoder.point_embed.${kind}.weight`, { shape: [1, width], data: row });
      }
    }
  }

  tensor(name: string): Tensor {
    const tensor = this.byName.get(name);
    if (!tensor) throw new SamserveError(`the model has no weight ${name}`, "BROKEN_MODEL");
    return tensor;
  }

  vector(name: string): Float32Array {
    return this.tensor(name).data;
  }

  /** A weight as a matrix: its first axis, and all others. */
  matrix(name: string): Matrix {
    const { shape, data } = this.tensor(name);
    return new Matrix(shape[0]!, data.length / shape[0]!, data);
  }
}
