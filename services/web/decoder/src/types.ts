/** What the package's objects are. Coordinates are pixels of the oriented image. */

export type Backend = "wasm" | "server";

/** A click. */
export interface Point {
  x: number;
  y: number;
  label: "foreground" | "background";
}

/** x0, y0, x1, y1. */
export type Box = [number, number, number, number];

/** Describes one object by points, a box, a rough mask, or any combination. */
export interface Prompt {
  points?: readonly Point[];
  box?: Readonly<Box>;
  /** Low-res logits of an earlier mask, [side * side], to refine it. */
  maskInput?: Float32Array;
}

/** The square that logits cover: an image is scaled until its longest side fits, or stretched to fill it. */
export interface Frame {
  side: number;
  stretch: boolean;
}

/** One candidate mask, as logits of low resolution; `toBinary` makes pixels of it. */
export interface Mask {
  /** Number among the decoder's outputs. */
  candidate: number;
  /** [side * side], row by row; above 0 is the object. */
  logits: Float32Array;
  side: number;
  frame: Frame;
  predictedIou: number;
  stabilityScore: number;
}

/** Bytes that have arrived, and all of them; `total` is 0 where the server does not say. */
export interface Progress {
  stage: "weights" | "embedding";
  loaded: number;
  total: number;
}

export type OnProgress = (progress: Progress) => void;

export interface LoadOptions {
  /** Address of the gateway; empty: the page's own origin. */
  baseUrl?: string;
  /** Name of a model; empty: the default model. */
  model?: string;
  /** WebAssembly in any case; `facts.note` says why `webgpu` is not used. */
  backend?: "auto" | "wasm" | "webgpu";
  onProgress?: OnProgress;
  signal?: AbortSignal;
}

export interface OpenOptions {
  signal?: AbortSignal;
  onProgress?: OnProgress;
}

export interface PredictOptions {
  signal?: AbortSignal;
  /** Three candidates (the default), or one mask. */
  multimask?: boolean;
}

/** Facts about a decoder, to show or to log. */
export interface DecoderFacts {
  backend: Backend;
  threads: number;
  model: string;
  modelVersion: string;
  /** Why the backend that was asked for is not the one in use; empty if it is. */
  note: string;
}

/** An image whose prompts can be answered. */
export interface OpenImage {
  readonly imageId: string;
  readonly width: number;
  readonly height: number;
  readonly modelVersion: string;

  /**
   * Answer a prompt: the candidates, best first, as the server orders them.
   *
   * The latest call wins: one that waits while a later one arrives is rejected with `Superseded`.
   */
  predict(prompt: Prompt, options?: PredictOptions): Promise<Mask[]>;

  /** Give the image's memory back. */
  close(): void;
}

/** Answers prompts: on this device (`Decoder`) or on the server (`RemoteDecoder`). */
export interface MaskDecoder {
  readonly facts: DecoderFacts;

  /** Open an image that the server has embedded: `POST /v1/images`, or `embedImage`. */
  open(imageId: string, options?: OpenOptions): Promise<OpenImage>;

  close(): void;
}

/** A model that the server serves, and what a browser has to know of it. */
export interface ServedModel {
  name: string;
  version: string;
  default: boolean;
  /** Side of the square that images are resized into, in pixels. */
  side: number;
  lowRes: number;
  /** What to download to decode it in a browser; null if it cannot be decoded there. */
  browser: { bytes: number } | null;
  /** Why `browser` is null, as a sentence to show. */
  browserNote: string;
}

/** Pixels of a mask, row by row, 0 or 1. */
export interface BinaryMask {
  width: number;
  height: number;
  data: Uint8Array;
}

/** A part of an image in pixels. */
export interface Region {
  x: number;
  y: number;
  width: number;
  height: number;
}

/** COCO's compressed run lengths. */
export interface Rle {
  /** Height and width. */
  size: [number, number];
  counts: string;
}

/** A connected part of a mask: corners [x, y] on the edges of pixels. */
export interface Polygon {
  exterior: [number, number][];
  holes: [number, number][][];
}
