/** What a person makes of one image. All values are immutable. */

import type { Box, Point, Rle } from "@samserve/decoder";
import type { Stroke } from "./stroke";

/** The object in progress: its prompts, and what was drawn by hand. Its mask follows from them. */
export interface Draft {
  points: readonly Point[];
  box: Readonly<Box> | null;
  /** Of the candidates, best first, the chosen one. */
  candidate: number;
  /** Low-res logits that the prompts refine. */
  maskInput: Float32Array | null;
  strokes: readonly Stroke[];
  /** The mask before strokes, where no prompt made it. */
  base: Rle | null;
  /** The object that is changed; null for a new one. */
  editing: string | null;
}

/** Where an object's mask is from. */
export type Origin = "prompt" | "everything" | "proposal" | "import";

/** A region with its mask. */
export interface Shape {
  id: string;
  rle: Rle;
  area: number;
  box: Readonly<Box>;
  /** The model's estimate of the mask's IoU; 0 if there is none. */
  score: number;
  origin: Origin;
}

/** An accepted object. */
export interface LabeledObject extends Shape {
  classId: number;
  hidden: boolean;
  crowd: boolean;
  /** The prompts that made it, to change it; null if none did. */
  draft: Draft | null;
}

/** A mask that waits for a decision. */
export interface Suggestion extends Shape {
  /** Whether it can be accepted without a look. */
  sure: boolean;
  /** Where it was found. */
  point: readonly [number, number];
  /** Where a click helps most, if it is not sure. */
  ask: readonly [number, number] | null;
}

export interface Content {
  objects: readonly LabeledObject[];
  draft: Draft;
  suggestions: readonly Suggestion[];
}

export const EMPTY_DRAFT: Draft = {
  points: [],
  box: null,
  candidate: 0,
  maskInput: null,
  strokes: [],
  base: null,
  editing: null,
};

export const EMPTY_CONTENT: Content = { objects: [], draft: EMPTY_DRAFT, suggestions: [] };

/** Whether there is a prompt for the decoder. */
export function hasPrompt(draft: Draft): boolean {
  return draft.points.length > 0 || draft.box !== null || draft.maskInput !== null;
}

/** Whether nothing is in progress. */
export function isEmpty(draft: Draft): boolean {
  return !hasPrompt(draft) && draft.strokes.length === 0 && draft.base === null;
}
