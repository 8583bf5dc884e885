/** Suggestions: everything in the image, or what is left, and what becomes of them. */

import { computed, signal } from "@preact/signals";
import type { Point } from "@samserve/decoder";
import type { Suggestion } from "../document/content";
import { isLeft, sentenceOf } from "../server/failure";
import { everything, propose, type SweepOptions } from "../server/sweep";
import { notify } from "./notices";
import { activeClass, connection, content, dispatch, opened, suggested } from "./workspace";

/** The work in progress. */
export interface Sweep {
  kind: "everything" | "proposals";
  done: number;
  points: number;
}

export const sweeping = signal<Sweep | null>(null);

/** The suggestion to decide on: the one that was chosen, or else the first. */
export const currentSuggestion = computed<Suggestion | null>(() => {
  const { suggestions } = content.value;
  return suggestions.find(({ id }) => id === suggested.value) ?? suggestions[0] ?? null;
});

let running: AbortController | null = null;

/** Start a sweep; the suggestions of an earlier one are replaced. */
export async function sweep(kind: Sweep["kind"]): Promise<void> {
  const image = opened.value;
  if (!image) return;
  cancelSweep();
  const mine = new AbortController();
  running = mine;
  connection.signal.addEventListener("abort", () => mine.abort(), { once: true });
  sweeping.value = { kind, done: 0, points: 0 };
  const options: SweepOptions = {
    model: connection.model,
    signal: mine.signal,
    onProgress: (done, points) => {
      if (running === mine) sweeping.value = { kind, done, points };
    },
  };
  try {
    const accepted = content.value.objects.map(({ rle }) => rle);
    const found = await (kind === "everything"
      ? everything(image.imageId, options)
      : propose(image.imageId, accepted, options));
    if (running !== mine) return;
    dispatch({ type: "suggest", suggestions: found });
    suggested.value = null;
    notify(found.length === 0 ? "Nothing more was found." : `${found.length} suggestions: accept or reject them.`);
  } catch (error) {
    if (!isLeft(error) && running === mine) notify(sentenceOf(error), "error");
  } finally {
    if (running === mine) {
      running = null;
      sweeping.value = null;
    }
  }
}

export function cancelSweep(): void {
  running?.abort(new DOMException("left", "AbortError"));
  running = null;
  sweeping.value = null;
}

/** Accept the current suggestion, or those that are given. */
export function acceptSuggestions(ids?: readonly string[]): void {
  const taken = ids ?? (currentSuggestion.value ? [currentSuggestion.value.id] : []);
  decide(taken, () => dispatch({ type: "accept-suggestions", ids: taken, classId: activeClass.value }));
}

export function rejectSuggestions(ids?: readonly string[]): void {
  const gone = ids ?? (currentSuggestion.value ? [currentSuggestion.value.id] : []);
  decide(gone, () => dispatch({ type: "reject-suggestions", ids: gone }));
}

/** Accept all that can be accepted without a look. */
export function acceptSure(): void {
  acceptSuggestions(content.value.suggestions.filter(({ sure }) => sure).map(({ id }) => id));
}

/** Answer the question of an unsure suggestion: whether the place it asks about belongs to the object. */
export function answerSuggestion(label: Point["label"]): void {
  const current = currentSuggestion.value;
  if (current?.ask) decide([current.id], () => dispatch({ type: "answer", id: current.id, label }));
}

/** Look at the next suggestion. */
export function stepSuggestion(by: 1 | -1): void {
  const { suggestions } = content.value;
  if (suggestions.length === 0) return;
  const index = suggestions.findIndex(({ id }) => id === currentSuggestion.value?.id);
  suggested.value = suggestions[(index + by + suggestions.length) % suggestions.length].id;
}

/** Do it, and go on to the suggestion after those that are gone. */
function decide(ids: readonly string[], action: () => void): void {
  const { suggestions } = content.value;
  const index = suggestions.findIndex(({ id }) => ids.includes(id));
  action();
  const left = content.value.suggestions;
  suggested.value = left[Math.min(Math.max(index, 0), left.length - 1)]?.id ?? null;
}
