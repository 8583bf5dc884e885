/** Polygons to runs of pixels, for imported annotations. */

import { type Column, type Runs, runsOfColumns } from "./runs";

/** The pixels whose centre is inside of a ring x0, y0, x1, y1... (even-odd). */
export function ringRuns(ring: readonly number[], width: number, height: number): Runs {
  const crossings = new Map<number, number[]>();
  for (let i = 0; i < ring.length; i += 2) {
    const [ax, ay] = [ring[i], ring[i + 1]];
    const [bx, by] = [ring[(i + 2) % ring.length], ring[(i + 3) % ring.length]];
    const [left, right] = ax < bx ? [ax, bx] : [bx, ax];
    const last = Math.min(Math.ceil(right - 0.5) - 1, width - 1);
    for (let x = Math.max(Math.ceil(left - 0.5), 0); x <= last; x++) {
      const y = ay + ((x + 0.5 - ax) / (bx - ax)) * (by - ay);
      const column = crossings.get(x);
      if (column) column.push(y);
      else crossings.set(x, [y]);
    }
  }

  const columns = new Map<number, Column>();
  for (const [x, found] of crossings) {
    found.sort((a, b) => a - b);
    const column: Column = [];
    for (let i = 0; i + 1 < found.length; i += 2) {
      column.push([Math.ceil(found[i] - 0.5), Math.ceil(found[i + 1] - 0.5)]);
    }
    columns.set(x, column);
  }
  return runsOfColumns(columns, width, height);
}
