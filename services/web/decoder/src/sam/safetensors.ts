/** Reads a safetensors file: a header in JSON, then the tensors' bytes. */

import { SamserveError } from "../errors.js";
import { fromHalf } from "./half.js";

export interface Tensor {
  shape: number[];
  data: Float32Array;
}

interface Entry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

/** Return the tensors by name, in fp32. */
export function readSafetensors(file: ArrayBuffer): Map<string, Tensor> {
  const view = new DataView(file);
  const length = Number(view.getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(file, 8, length)));
  const tensors = new Map<string, Tensor>();

  for (const [name, entry] of Object.entries<Entry>(header)) {
    if (name === "__metadata__") continue;
    const [from, to] = entry.data_offsets;
    const bytes = file.slice(8 + length + from, 8 + length + to); // aligned
    tensors.set(name, { shape: entry.shape, data: toFloats(bytes, entry.dtype, name) });
  }
  return tensors;
}

function toFloats(bytes: ArrayBuffer, dtype: string, name: string): Float32Array {
  if (dtype === "F32") return new Float32Array(bytes);
  if (dtype === "F16") return fromHalf(new Uint16Array(bytes));
  if (dtype === "BF16") {
    const words = Uint32Array.from(new Uint16Array(bytes), (bits) => bits << 16);
    return new Float32Array(words.buffer);
  }
  throw new SamserveError(`the weight ${name} has the unknown type ${dtype}`, "BROKEN_MODEL");
}
