/** From prompts to masks: the draft's candidates, the mask under the pointer, and what is accepted. */

import { computed, effect, signal } from "@preact/signals";
import { iou, type Mask, type Point, type Prompt, toBinary, toRle } from "@samserve/decoder";
import { type Draft, hasPrompt, isEmpty, type LabeledObject } from "../document/content";
import { areaOf, boxOf, type Runs, readRuns, writeRuns } from "../document/runs";
import { applyStrokes } from "../document/stroke";
import { isLeft, sentenceOf } from "../server/failure";
import { newId } from "./ids";
import { notify } from "./notices";
import { record, afterPaint } from "./timings";
import {
  activeClass,
  background,
  candidates,
  connection,
  content,
  dispatch,
  opened,
  predicting,
  selected,
  tool,
} from "./workspace";

export { iou, toBinary };

/** The mask under the pointer, and when the pointer came there. */
export const hover = signal<{ mask: Mask; since: number } | null>(null);

/** The draft's mask without strokes, as the decoder gave it. */
export const chosen = computed<Mask | null>(() => {
  const list = candidates.value;
  return hasPrompt(content.value.draft) ? (list[Math.min(content.value.draft.candidate, list.length - 1)] ?? null) : null;
});

/** The draft's mask in the image's pixels, if something was drawn by hand. */
export const drawn = computed<Runs | null>(() => {
  const { draft } = content.value;
  if (draft.strokes.length === 0 && draft.base === null) return null;
  return runsOfDraft(draft, chosen.value);
});

/** The draft's mask in the image's pixels; null while there is none. */
export function runsOfDraft(draft: Draft, mask: Mask | null): Runs | null {
  const image = opened.value;
  if (!image || isEmpty(draft) || (hasPrompt(draft) && !mask)) return null;
  const { width, height } = image.levels;
  const none: Runs = { width, height, edges: new Uint32Array() };
  const start = mask ? readRuns(toRle(mask, width, height)) : draft.base ? readRuns(draft.base) : none;
  return applyStrokes(start, draft.strokes);
}

/** Add a click to the draft. */
export function clickAt(x: number, y: number, label: Point["label"] = background.value ? "background" : "foreground"): void {
  clicked = performance.now();
  dispatch({ type: "point", point: { x, y, label } });
}

/** Make the draft an object. */
export function acceptDraft(): void {
  const { draft, objects } = content.value;
  const runs = runsOfDraft(draft, chosen.value);
  if (!runs) return;
  if (runs.edges.length === 0) {
    notify("The mask is empty; add a click on the object.");
    return;
  }
  const before = objects.find(({ id }) => id === draft.editing);
  const object: LabeledObject = {
    id: before?.id ?? newId(),
    classId: before?.classId ?? activeClass.value,
    rle: writeRuns(runs),
    area: areaOf(runs),
    box: boxOf(runs),
    score: chosen.value?.predictedIou ?? before?.score ?? 0,
    origin: before?.origin ?? "prompt",
    hidden: false,
    crowd: before?.crowd ?? false,
    draft: { ...draft, editing: null },
  };
  dispatch({ type: "accept", object });
  background.value = false;
}

/** Ask again with the present mask as a rough mask. */
export function refine(): void {
  const mask = chosen.value;
  if (mask) dispatch({ type: "refine", maskInput: mask.logits });
  else notify("There is no mask to refine yet; click on an object first.");
}

/** Choose the next candidate. */
export function nextCandidate(): void {
  const count = candidates.value.length;
  if (count > 1) dispatch({ type: "candidate", candidate: (content.value.draft.candidate + 1) % count });
}

/** Change an accepted object by its prompts, the brush or the eraser. */
export function reopenObject(id: string): void {
  selected.value = id;
  dispatch({ type: "reopen", id });
}

let clicked: number | null = null;

// The draft's candidates follow its prompts.
let asked: Draft | null = null;
effect(() => {
  const { draft } = content.value;
  const ready = connection.stage.value.kind === "ready";
  const same = asked !== null && isSamePrompt(asked, draft);
  if (!hasPrompt(draft)) {
    asked = null;
    candidates.value = [];
    predicting.value = false;
    return;
  }
  hover.value = null;
  if (!ready || (same && (candidates.peek().length > 0 || predicting.peek()))) return;
  asked = draft;
  predicting.value = true;
  void predictDraft(draft);
});

async function predictDraft(draft: Draft): Promise<void> {
  const since = clicked;
  clicked = null;
  try {
    const masks = await connection.predict(promptOf(draft), { multimask: draft.maskInput === null });
    if (asked !== draft) return;
    predicting.value = false;
    candidates.value = masks;
    if (since !== null) {
      afterPaint(() => record("click", performance.now() - since));
    }
  } catch (error) {
    if (asked !== draft) return; // a newer prompt has taken its place
    asked = null;
    predicting.value = false;
    if (!isLeft(error)) notify(sentenceOf(error), "error");
  }
}

function promptOf({ points, box, maskInput }: Draft): Prompt {
  return { points, ...(box ? { box } : {}), ...(maskInput ? { maskInput } : {}) };
}

function isSamePrompt(a: Draft, b: Draft): boolean {
  return a.points === b.points && a.box === b.box && a.maskInput === b.maskInput;
}

// The mask under the pointer: the newest place is asked, one at a time.
let place: { x: number; y: number; since: number } | null = null;
let hovering = false;

/** The pointer has moved; null: it has left the image. `since` is the event's time. */
export function hoverAt(x: number, y: number, since: number): void {
  place = { x, y, since };
  if (!hovering) void followPointer();
}

export function endHover(): void {
  place = null;
  hover.value = null;
}

// A mask under the pointer belongs to the image that was there.
effect(() => {
  void opened.value;
  endHover();
});

async function followPointer(): Promise<void> {
  hovering = true;
  while (place && mayHover()) {
    const { x, y, since } = place;
    place = null;
    try {
      const [mask] = await connection.predict({ points: [{ x, y, label: "foreground" }] });
      if (mayHover() && mask) hover.value = { mask, since };
    } catch {
      break; // a click has taken its place, or the image is gone; those say so
    }
  }
  hovering = false;
}

function mayHover(): boolean {
  return tool.value === "click" && connection.stage.value.kind === "ready" && isEmpty(content.value.draft);
}
