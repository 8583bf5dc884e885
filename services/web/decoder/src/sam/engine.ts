/** What computes a model's decoder. */

import type { Embedding } from "./embedding.js";

/** One prompt, as an engine takes it. */
export interface DecodeRequest {
  /** [K, 2], (x, y) in frame pixels: points, box corners and padding. */
  points: Float32Array;
  /** [K], 1 and 0 for points, 2 and 3 for a box's corners, -1 for padding. */
  labels: Float32Array;
  /** Low-res logits, [side * side], or null. */
  maskInput: Float32Array | null;
  /** Numbers of the masks: 0 is the single mask, 1 to 3 are the candidates. */
  wanted: number[];
}

export interface Decoded {
  /** Of the wanted masks, [side * side] each. */
  logits: Float32Array[];
  /** All four predicted IoUs. */
  ious: Float32Array;
}

/** An image that is ready for prompts. */
export interface Prepared {
  decode(request: DecodeRequest): Decoded | Promise<Decoded>;
  free(): void;
}

export interface Engine {
  /** Points of a prompt, box corners and padding included. */
  readonly mostPoints: number;
  /** Do the work that all prompts on an image share. */
  prepare(embedding: Embedding): Prepared | Promise<Prepared>;
}
