/** Strokes of the brush and the eraser, as runs of pixels. */

import { type Column, difference, type Runs, runsOfColumns, union } from "./runs";

/** A line drawn by hand, in pixels of the image. */
export interface Stroke {
  erase: boolean;
  radius: number;
  /** x0, y0, x1, y1... */
  path: readonly number[];
}

/** Change a mask by strokes, in their order. */
export function applyStrokes(mask: Runs, strokes: readonly Stroke[]): Runs {
  return strokes.reduce((before, stroke) => {
    const drawn = strokeRuns(stroke, mask.width, mask.height);
    return stroke.erase ? difference(before, drawn) : union(before, drawn);
  }, mask);
}

/** The pixels whose centre is within the radius of a stroke. */
export function strokeRuns({ radius, path }: Stroke, width: number, height: number): Runs {
  const columns = new Map<number, Column>();
  for (let i = 0; i < path.length; i += 2) {
    const next = i + 2 < path.length ? i + 2 : i;
    drawCapsule(columns, path[i], path[i + 1], path[next], path[next + 1], radius, width);
  }
  return runsOfColumns(columns, width, height);
}

/** Add all that is within a radius of the line from a to b: in each column one run, as the shape is convex. */
function drawCapsule(
  columns: Map<number, Column>,
  ax: number,
  ay: number,
  bx: number,
  by: number,
  radius: number,
  width: number,
): void {
  const first = Math.max(Math.floor(Math.min(ax, bx) - radius), 0);
  const last = Math.min(Math.ceil(Math.max(ax, bx) + radius), width - 1);
  for (let x = first; x <= last; x++) {
    const [top, bottom] = capsuleColumn(x + 0.5, ax, ay, bx, by, radius);
    const run: [number, number] = [Math.ceil(top - 0.5), Math.floor(bottom - 0.5) + 1];
    if (run[0] >= run[1]) continue;
    const column = columns.get(x);
    if (column) column.push(run);
    else columns.set(x, [run]);
  }
}

function capsuleColumn(x: number, ax: number, ay: number, bx: number, by: number, radius: number): [number, number] {
  let [top, bottom] = [Infinity, -Infinity];
  const include = (y: number, half: number) => {
    top = Math.min(top, y - half);
    bottom = Math.max(bottom, y + half);
  };
  for (const [cx, cy] of [
    [ax, ay],
    [bx, by],
  ]) {
    if (Math.abs(x - cx) <= radius) include(cy, Math.sqrt(radius * radius - (x - cx) ** 2));
  }
  // The two straight sides: the line moved by the radius to its left and to its right.
  const length = Math.hypot(bx - ax, by - ay);
  if (length > 0 && ax !== bx) {
    const [nx, ny] = [(-(by - ay) / length) * radius, ((bx - ax) / length) * radius];
    for (const side of [-1, 1]) {
      const t = (x - (ax + side * nx)) / (bx - ax);
      if (t >= 0 && t <= 1) include(ay + side * ny + t * (by - ay), 0);
    }
  }
  return [top, bottom];
}
