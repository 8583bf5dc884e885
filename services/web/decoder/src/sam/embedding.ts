/** An image's embedding. */

import type { Size } from "./geometry.js";

export interface Embedding {
  /** Of the source image. */
  size: Size;
  modelVersion: string;
  /** fp16 bits by name. */
  tensors: Map<string, Uint16Array>;
}
