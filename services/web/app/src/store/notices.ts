/** Sentences for the person: what failed, and what to do. */

import { signal } from "@preact/signals";

export interface Notice {
  id: number;
  kind: "info" | "error";
  text: string;
}

const SHOWN = 8000; // milliseconds; errors stay until they are closed

export const notices = signal<readonly Notice[]>([]);

let last = 0;

/** Show a sentence. The same sentence is not shown twice at once. */
export function notify(text: string, kind: Notice["kind"] = "info"): void {
  const id = ++last;
  notices.value = [...notices.value.filter((each) => each.text !== text), { id, kind, text }].slice(-4);
  if (kind === "info") setTimeout(() => dismiss(id), SHOWN);
}

export function dismiss(id: number): void {
  notices.value = notices.value.filter((each) => each.id !== id);
}
