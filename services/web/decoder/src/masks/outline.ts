/**
 * Turns low-res logits into a mask at the source image's size, step by step as the server does in
 * samserve/decoder/masks/outline.py: bilinear to the frame, cut the padding off, bilinear to the
 * source's size, then the threshold 0.
 */

import { fit } from "../sam/geometry.js";
import type { Mask } from "../types.js";
import type { Runs } from "./runs.js";

const MARGIN = 2; // rows and columns of low-res logits around the positive ones

/** The part of the framed logits that decides the mask. */
export interface Framed {
  logits: Float32Array;
  rows: number;
  columns: number;
  /** Of the frame, the first row and column of the part. */
  row: number;
  column: number;
}

/** Scale the part of the logits that has all positive ones on the image to the frame. */
export function scaleToFrame(mask: Mask, width: number, height: number): Framed {
  const { logits, side, frame } = mask;
  const inner = fit({ width, height }, frame);
  const cell = frame.side / side;

  // The logits that the image touches, and one more; of these the box around the positive ones.
  const shownRows = Math.min(Math.ceil(inner.height / cell) + 1, side);
  const shownColumns = Math.min(Math.ceil(inner.width / cell) + 1, side);
  let [top, bottom, left, right] = [side, -1, side, -1];
  for (let y = 0; y < shownRows; y++)
    for (let x = 0; x < shownColumns; x++)
      if (logits[y * side + x]! > 0) {
        if (y < top) top = y;
        bottom = y;
        if (x < left) left = x;
        if (x > right) right = x;
      }
  const [y0, y1] = bottom < 0 ? [0, 1] : [Math.max(top - MARGIN, 0), Math.min(bottom + MARGIN + 1, shownRows)];
  const [x0, x1] = right < 0 ? [0, 1] : [Math.max(left - MARGIN, 0), Math.min(right + MARGIN + 1, shownColumns)];

  const rows = Math.min((y1 - y0) * cell, inner.height - y0 * cell);
  const columns = Math.min((x1 - x0) * cell, inner.width - x0 * cell);
  const across = weights(cell, columns, x1 - x0);
  const down = weights(cell, rows, y1 - y0);

  const wide = Math.max(columns, 2); // the last column twice, if there is only one
  const scaled = new Float32Array(rows * wide);
  const [upper, lower] = [new Float32Array(columns), new Float32Array(columns)];
  let known = -1;
  for (let y = 0; y < rows; y++) {
    const [first, second] = [down.first[y]!, down.second[y]!];
    if (known !== first + second) {
      known = first + second; // rises from pair to pair, also where a pair is one row twice
      scaleRow(logits, (y0 + first) * side + x0, across, upper);
      scaleRow(logits, (y0 + second) * side + x0, across, lower);
    }
    const share = down.share[y]!;
    const at = y * wide;
    for (let x = 0; x < columns; x++) scaled[at + x] = upper[x]! * (1 - share) + lower[x]! * share;
    if (columns === 1) scaled[at + 1] = scaled[at]!;
  }
  return { logits: scaled, rows, columns: wide, row: y0 * cell, column: x0 * cell };
}

interface Weights {
  first: Int32Array;
  second: Int32Array;
  share: Float32Array; // of the second
}

/** Between which two of `count` inputs each of `length` outputs lies. */
function weights(cell: number, length: number, count: number): Weights {
  const [first, second, share] = [new Int32Array(length), new Int32Array(length), new Float32Array(length)];
  for (let i = 0; i < length; i++) {
    const at = (i + 0.5) / cell - 0.5;
    const before = Math.floor(at);
    first[i] = Math.max(before, 0);
    second[i] = Math.min(before + 1, count - 1);
    share[i] = at - before;
  }
  return { first, second, share };
}

function scaleRow(logits: Float32Array, at: number, across: Weights, out: Float32Array): void {
  for (let x = 0; x < out.length; x++) {
    const share = across.share[x]!;
    out[x] = logits[at + across.first[x]!]! * (1 - share) + logits[at + across.second[x]!]! * share;
  }
}

/** Scale a mask's logits to the source image's size and cut them at 0. */
export function outline(mask: Mask, width: number, height: number): Runs {
  const inner = fit({ width, height }, mask.frame);
  const framed = scaleToFrame(mask, width, height);
  const { logits, rows, columns } = framed;

  // The source's columns that lie between columns of the part.
  let firstColumn = 0;
  const left: number[] = [];
  const weight: number[] = [];
  for (let x = 0; x < width; x++) {
    const centre = (x + 0.5) * (inner.width / width) - 0.5;
    const at = Math.min(Math.max(centre, 0), inner.width - 1) - framed.column;
    if (at < 0) firstColumn = x + 1;
    else if (at <= columns - 1) {
      const cell = Math.min(Math.floor(at), columns - 2);
      left.push(cell);
      weight.push(Math.fround(at - cell));
    }
  }
  // begins[c]: the first source column in framed column c.
  const begins = new Int32Array(columns);
  for (let c = 0, i = 0; c < columns; c++) {
    while (i < left.length && left[i]! < c) i++;
    begins[c] = i;
  }

  const value = (row: number, i: number): number => {
    const at = row * columns + left[i]!;
    return Math.fround(
      Math.fround(logits[at]! * Math.fround(1 - weight[i]!)) + Math.fround(logits[at + 1]! * weight[i]!),
    );
  };
  // If both neighbours have the same sign, so has the value: rounding must not create a crossing.
  const inside = (row: number, i: number): boolean => {
    const at = row * columns + left[i]!;
    const a = logits[at]! > 0;
    return a === logits[at + 1]! > 0 ? a : value(row, i) > 0;
  };

  // A column of the source changes between two framed rows only where four framed logits differ.
  const changes: number[] = [];
  for (let row = 0; row + 1 < rows; row++) {
    const at = row * columns;
    for (let c = 0; c + 1 < columns; c++) {
      const a = logits[at + c]! > 0;
      if (a === logits[at + c + 1]! > 0 && a === logits[at + columns + c]! > 0 && a === logits[at + columns + c + 1]! > 0)
        continue;
      for (let i = begins[c]!; i < (c + 2 < columns ? begins[c + 1]! : left.length); i++) {
        const leaving = inside(row, i);
        if (leaving === inside(row + 1, i)) continue;
        const upper = value(row, i);
        const ratio = Math.fround(upper / Math.fround(upper - value(row + 1, i)));
        const share = Number.isNaN(ratio) ? 0.5 : ratio;
        const y = (framed.row + row + share + 0.5) * (height / inner.height) - 0.5;
        // The first row on the other side; 0 itself is background.
        changes.push((firstColumn + i) * height + (leaving ? Math.ceil(y) : Math.floor(y) + 1));
      }
    }
  }
  // A column that is inside at the part's first row begins inside at the top, and so on.
  for (let i = 0; i < left.length; i++) {
    if (inside(0, i)) changes.push((firstColumn + i) * height);
    if (inside(rows - 1, i)) changes.push((firstColumn + i + 1) * height);
  }

  // Two changes at one pixel cancel each other.
  const ordered = Float64Array.from(changes).sort();
  const kept: number[] = [];
  for (const change of ordered) {
    if (kept[kept.length - 1] === change) kept.pop();
    else if (change < width * height) kept.push(change);
  }
  return { width, height, changes: kept };
}
