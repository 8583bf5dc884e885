import { expect, it } from "vitest";
import { Heap } from "../src/kernel/heap.js";

const PAGE = 65536;

it("memory that is given back is used again, and the memory does not grow", () => {
  const memory = new WebAssembly.Memory({ initial: 1 });
  const heap = new Heap(memory, 1000);
  const sizes = [3, 5000, 70_000, 16, 200_000];
  for (let round = 0; round < 50; round++) {
    const places = sizes.map((size) => heap.reserve(size));
    // In another order each time.
    places.sort((a, b) => ((a * (round + 7)) % 101) - ((b * (round + 7)) % 101)).forEach((at) => heap.free(at));
  }
  expect(memory.buffer.byteLength).toBe(Math.ceil((1000 + 276_000) / PAGE) * PAGE);
});

it("blocks are aligned, apart, and behind the base", () => {
  const heap = new Heap(new WebAssembly.Memory({ initial: 1 }), 1001);
  const blocks = [7, 100, 16, 90_000].map((size) => [heap.reserve(size), size] as const);
  blocks.forEach(([at, size], i) => {
    expect(at % 16).toBe(0);
    expect(at).toBeGreaterThanOrEqual(1001);
    for (const [other] of blocks.slice(i + 1)) expect(other >= at + size || other < at).toBe(true);
  });
});

it("memory that cannot be had is a RangeError", () => {
  const heap = new Heap(new WebAssembly.Memory({ initial: 1, maximum: 2 }), 0);
  expect(() => heap.reserve(3 * PAGE)).toThrow(RangeError);
  expect(heap.reserve(PAGE)).toBe(0);
});
