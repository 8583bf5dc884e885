/** Masks as runs of pixels, column by column as in COCO. Small, and quick to combine: no pixels in between. */

import type { BinaryMask, Box, Rle } from "@samserve/decoder";

/** Positions (x * height + y) at which the mask begins and ends, alternately, ascending. */
export interface Runs {
  width: number;
  height: number;
  edges: Uint32Array;
}

/** Read COCO's compressed run lengths. */
export function readRuns(rle: Rle): Runs {
  const [height, width] = rle.size;
  return runsOfCounts(countsOf(rle.counts), width, height);
}

/** Read COCO's plain run lengths: off, on, off... */
export function runsOfCounts(counts: readonly number[], width: number, height: number): Runs {
  const edges: number[] = [];
  let position = 0;
  for (const count of counts) {
    position += count;
    // Two edges at one place are none.
    if (edges.length > 0 && edges[edges.length - 1] === position) edges.pop();
    else edges.push(position);
  }
  if (position !== width * height) {
    throw new Error(`run lengths of ${position} pixels do not fit an image of ${width} x ${height}`);
  }
  if (edges.length % 2 === 1) edges.pop(); // the end of the last run that is off
  return { width, height, edges: Uint32Array.from(edges) };
}

/** Write COCO's compressed run lengths. */
export function writeRuns({ width, height, edges }: Runs): Rle {
  const counts: number[] = [];
  let position = 0;
  for (const edge of edges) {
    counts.push(edge - position);
    position = edge;
  }
  if (position < width * height) counts.push(width * height - position);
  return { size: [height, width], counts: compress(counts) };
}

/** The pixels of either. */
export function union(a: Runs, b: Runs): Runs {
  return combine(a, b, (inA, inB) => inA || inB);
}

/** The pixels of `a` that are not in `b`. */
export function difference(a: Runs, b: Runs): Runs {
  return combine(a, b, (inA, inB) => inA && !inB);
}

/** The pixels of both. */
export function intersection(a: Runs, b: Runs): Runs {
  return combine(a, b, (inA, inB) => inA && inB);
}

export function areaOf({ edges }: Runs): number {
  let area = 0;
  for (let i = 0; i < edges.length; i += 2) area += edges[i + 1] - edges[i];
  return area;
}

/** x0, y0, x1, y1 with x1 and y1 exclusive; all 0 for an empty mask. */
export function boxOf({ edges, height }: Runs): Box {
  if (edges.length === 0) return [0, 0, 0, 0];
  let top = height;
  let bottom = 0;
  for (let i = 0; i < edges.length; i += 2) {
    const first = Math.floor(edges[i] / height);
    const last = Math.floor((edges[i + 1] - 1) / height);
    if (first !== last) {
      // Such a run goes through the bottom of one column and the top of the next.
      top = 0;
      bottom = height;
      break;
    }
    top = Math.min(top, edges[i] - first * height);
    bottom = Math.max(bottom, edges[i + 1] - first * height);
  }
  const left = Math.floor(edges[0] / height);
  const right = Math.floor((edges[edges.length - 1] - 1) / height) + 1;
  return [left, top, right, bottom];
}

/** The pixels within a box, row by row. */
export function cropRuns({ edges, height }: Runs, [x0, y0, x1, y1]: Readonly<Box>): BinaryMask {
  const columns = x1 - x0;
  const data = new Uint8Array(columns * (y1 - y0));
  for (let i = 0; i < edges.length; i += 2) {
    let start = edges[i];
    while (start < edges[i + 1]) {
      const x = Math.floor(start / height);
      const end = Math.min(edges[i + 1], (x + 1) * height);
      if (x >= x0 && x < x1) {
        const last = Math.min(end - x * height, y1);
        for (let y = Math.max(start - x * height, y0); y < last; y++) data[(y - y0) * columns + x - x0] = 1;
      }
      start = end;
    }
  }
  return { width: columns, height: y1 - y0, data };
}

/** Whether a pixel is on the mask. */
export function contains({ edges, width, height }: Runs, x: number, y: number): boolean {
  if (x < 0 || y < 0 || x >= width || y >= height) return false;
  const position = Math.floor(x) * height + Math.floor(y);
  let low = 0;
  let high = edges.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (edges[middle] <= position) low = middle + 1;
    else high = middle;
  }
  return low % 2 === 1;
}

/** Runs of one column, [first, last) rows each, ascending and apart. */
export type Column = [number, number][];

/** Put columns together; `columns` maps x to its runs, in any order. */
export function runsOfColumns(columns: Map<number, Column>, width: number, height: number): Runs {
  const edges: number[] = [];
  for (const x of [...columns.keys()].sort((a, b) => a - b)) {
    for (const [first, last] of merged(columns.get(x)!, height)) {
      const start = x * height + first;
      if (edges.length > 0 && edges[edges.length - 1] === start) edges.pop();
      else edges.push(start);
      edges.push(x * height + last);
    }
  }
  return { width, height, edges: Uint32Array.from(edges) };
}

function merged(column: Column, height: number): Column {
  const ordered = column
    .map(([first, last]): [number, number] => [Math.max(first, 0), Math.min(last, height)])
    .filter(([first, last]) => first < last)
    .sort((a, b) => a[0] - b[0]);
  const out: Column = [];
  for (const run of ordered) {
    const before = out[out.length - 1];
    if (before && run[0] <= before[1]) before[1] = Math.max(before[1], run[1]);
    else out.push(run);
  }
  return out;
}

function combine(a: Runs, b: Runs, keep: (inA: boolean, inB: boolean) => boolean): Runs {
  const edges: number[] = [];
  let [i, j, on] = [0, 0, false];
  while (i < a.edges.length || j < b.edges.length) {
    const position = Math.min(a.edges[i] ?? Infinity, b.edges[j] ?? Infinity);
    if (a.edges[i] === position) i++;
    if (b.edges[j] === position) j++;
    if (keep(i % 2 === 1, j % 2 === 1) !== on) {
      edges.push(position);
      on = !on;
    }
  }
  return { width: a.width, height: a.height, edges: Uint32Array.from(edges) };
}

function countsOf(text: string): number[] {
  const counts: number[] = [];
  let at = 0;
  while (at < text.length) {
    let [value, shift, more] = [0, 0, true];
    while (more) {
      const code = text.charCodeAt(at++) - 48;
      if (!(code >= 0 && code < 64)) throw new Error("unreadable run lengths");
      value |= (code & 31) << shift;
      shift += 5;
      more = (code & 32) !== 0;
      if (!more && code & 16 && shift < 32) value |= -1 << shift;
    }
    if (counts.length > 2) value += counts[counts.length - 2];
    counts.push(value);
  }
  return counts;
}

function compress(counts: readonly number[]): string {
  let text = "";
  counts.forEach((count, index) => {
    let value = index > 2 ? count - counts[index - 2] : count;
    for (let more = true; more; ) {
      let code = value & 31;
      value >>= 5;
      more = code & 16 ? value !== -1 : value !== 0;
      if (more) code |= 32;
      text += String.fromCharCode(code + 48);
    }
  });
  return text;
}
