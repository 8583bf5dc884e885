/** What the page measures of itself, in milliseconds; tests and the status line read it. */

import { signal } from "@preact/signals";

const KEPT = 200;

export interface Timings {
  /** From a move of the pointer to the mask on the screen. */
  hover: number[];
  /** From a click to the mask on the screen. */
  click: number[];
  /** From the drop of an image to its first mask on the screen. */
  first: number[];
  /** The server's own time for the image's embedding. */
  embed: number[];
}

export const timings: Timings = { hover: [], click: [], first: [], embed: [] };

/** The median of the hovers; null before the first one. */
export const hoverMedian = signal<number | null>(null);

/** Keep a measurement. */
export function record(kind: keyof Timings, milliseconds: number): void {
  const list = timings[kind];
  list.push(milliseconds);
  if (list.length > KEPT) list.shift();
  if (kind === "hover") hoverMedian.value = median(list);
}

/** Call back once what was drawn is on the screen. */
export function afterPaint(done: () => void): void {
  requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = done;
    channel.port2.postMessage(null);
  });
}

export function median(values: readonly number[]): number | null {
  if (values.length === 0) return null;
  const ordered = [...values].sort((a, b) => a - b);
  return ordered[Math.floor(ordered.length / 2)];
}

/** For tests and measurements. */
export interface Probe {
  timings: Timings;
  /** The place of a pixel of the image in the window. */
  toWindow: (x: number, y: number) => [number, number];
}

declare global {
  interface Window {
    samserve: Probe;
  }
}

window.samserve = { timings, toWindow: (x, y) => [x, y] };
