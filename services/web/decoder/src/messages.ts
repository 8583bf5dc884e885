/** Messages between the page and the worker. Every request has an id; it gets one reply. */

import type { DecoderFacts, Mask, Progress, Prompt } from "./types.js";

export type Request =
  | { kind: "load"; baseUrl: string; model: string; backend: "auto" | "wasm" | "webgpu" }
  | { kind: "open"; imageId: string }
  | { kind: "predict"; image: number; prompt: Prompt; multimask: boolean }
  | { kind: "close"; image: number };

export interface OpenedImage {
  image: number;
  width: number;
  height: number;
  modelVersion: string;
}

export interface Replies {
  load: DecoderFacts;
  open: OpenedImage;
  predict: Mask[];
  close: null;
}

export type ToWorker = { id: number; request: Request } | { id: number; abort: true };

/** An error as it crosses to the page. */
export interface Failure {
  kind: string;
  message: string;
  code: string;
  status: number;
  field: string;
  retryAfter: number | null;
}

export type FromWorker =
  | { id: number; reply: Replies[keyof Replies] }
  | { id: number; failure: Failure }
  | { id: number; progress: Progress };
