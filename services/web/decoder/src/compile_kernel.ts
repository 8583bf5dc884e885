/** Fetches and compiles the kernel, with fused multiplications where the browser has them. */

import { Unreachable } from "./errors.js";

// The smallest module with f32x4.relaxed_madd.
const RELAXED = Uint8Array.from([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 0, 253, 17, 65, 0, 253, 17,
  65, 0, 253, 17, 253, 133, 2, 11,
]);

export function hasRelaxedSimd(): boolean {
  return WebAssembly.validate(RELAXED);
}

export async function compileKernel(): Promise<WebAssembly.Module> {
  const url = hasRelaxedSimd()
    ? new URL("../wasm/kernel-relaxed.wasm", import.meta.url)
    : new URL("../wasm/kernel.wasm", import.meta.url);
  try {
    const response = await fetch(url);
    if (!response.ok) throw new Error(`${response.status}`);
    return await WebAssembly.compile(await response.arrayBuffer());
  } catch (error) {
    throw new Unreachable(`the decoder's program ${url.pathname} cannot be loaded: ${String(error)}`);
  }
}
