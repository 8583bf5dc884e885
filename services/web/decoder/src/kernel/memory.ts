/** The compiled kernel and its memory. Addresses are numbers; views are made anew, as memory grows. */

import { Heap } from "./heap.js";
import type { Struct } from "./structs.js";

interface Exports {
  memory: WebAssembly.Memory;
  _initialize?(): void;
  __heap_base: WebAssembly.Global;
  decode(job: number, sums: number): void;
  lay_out(image: number, noMask: number, place: number, x: number, placed: number, cells: bigint): void;
  squares(
    x: number,
    gain: number,
    first: number,
    second: number,
    cross: number,
    square0: number,
    square1: number,
    cross1: number,
    cells: bigint,
  ): void;
  project(weight: number, x: number, out: number, rows: bigint, inner: bigint, from: bigint, to: bigint): void;
  quantise(from: number, rows: bigint, cells: bigint, turned: number, to: number, scale: number): void;
  tokens_bytes(): bigint;
  weights_bytes(): bigint;
  job_bytes(): bigint;
}

export type Numbers = Float32Array | Uint16Array | Int16Array | Uint8Array;

export class Kernel {
  readonly exports: Exports;
  private readonly heap: Heap;

  constructor(module: WebAssembly.Module) {
    this.exports = new WebAssembly.Instance(module, {}).exports as unknown as Exports;
    this.exports._initialize?.();
    this.heap = new Heap(this.exports.memory, this.exports.__heap_base.value as number);
  }

  /** Reserve bytes. Throws RangeError if the browser gives no more memory. */
  reserve(bytes: number): number {
    return this.heap.reserve(bytes);
  }

  /** Copy numbers into memory; returns their address. */
  put(numbers: Numbers): number {
    const at = this.reserve(numbers.byteLength);
    const bytes = new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength);
    new Uint8Array(this.exports.memory.buffer, at, bytes.length).set(bytes);
    return at;
  }

  /** Write a structure into memory; returns its address. */
  putStruct(struct: Struct): number {
    const at = this.reserve(struct.size);
    struct.write(new DataView(this.exports.memory.buffer), at);
    return at;
  }

  free(at: number): void {
    this.heap.free(at);
  }

  floats(at: number, count: number): Float32Array {
    return new Float32Array(this.exports.memory.buffer, at, count);
  }

  /** out [tiles, rows, 64] = weight [rows, inner] x [tiles, inner, 64], all by address. */
  project(weight: number, x: number, out: number, rows: number, inner: number, cells: number): void {
    this.exports.project(weight, x, out, BigInt(rows), BigInt(inner), 0n, BigInt(cells));
  }
}
