/** Outlines of masks as paths, made when there is time for it. */

import { maskToPolygons, type Rle } from "@samserve/decoder";
import { boxOf, cropRuns, type Runs, readRuns } from "../document/runs";

const SLICE = 10; // milliseconds of work at once
const TOLERANCE = 0.8; // pixels of the image; without it, lines are stairs on enlarged images

const paths = new WeakMap<Rle, Path2D>();
const queue = new Map<Rle, (() => void)[]>();
let scheduled = false;

/** The path of a mask in the image's pixels, or null until it is ready; then `onReady` is called. */
export function outlineOf(rle: Rle, onReady: () => void): Path2D | null {
  const found = paths.get(rle);
  if (found) return found;
  const waiting = queue.get(rle);
  if (waiting) waiting.push(onReady);
  else queue.set(rle, [onReady]);
  schedule();
  return null;
}

/** The path of a mask, made at once. */
export function pathOf(runs: Runs): Path2D {
  const path = new Path2D();
  const box = boxOf(runs);
  if (box[2] <= box[0]) return path;
  const [left, top] = box;
  for (const { exterior, holes } of maskToPolygons(cropRuns(runs, box), TOLERANCE)) {
    for (const ring of [exterior, ...holes]) {
      ring.forEach(([x, y], index) => {
        if (index === 0) path.moveTo(x + left, y + top);
        else path.lineTo(x + left, y + top);
      });
      path.closePath();
    }
  }
  return path;
}

function schedule(): void {
  if (scheduled) return;
  scheduled = true;
  setTimeout(work, 0);
}

function work(): void {
  scheduled = false;
  const until = performance.now() + SLICE;
  const told = new Set<() => void>();
  for (const [rle, waiting] of queue) {
    queue.delete(rle);
    paths.set(rle, pathOf(readRuns(rle)));
    for (const each of waiting) told.add(each);
    if (performance.now() > until) break;
  }
  for (const each of told) each();
  if (queue.size > 0) schedule();
}
