/** Polygons of objects in the image's pixels. */

import { maskToPolygons, type Polygon, type Rle } from "@samserve/decoder";
import { boxOf, cropRuns, readRuns } from "../document/runs";

type Corner = [number, number];

/** The outlines of a mask, each within `tolerance` pixels. */
export function polygonsOf(rle: Rle, tolerance: number): Polygon[] {
  const runs = readRuns(rle);
  const box = boxOf(runs);
  if (box[2] <= box[0]) return [];
  const moved = (ring: Corner[]): Corner[] => ring.map(([x, y]) => [x + box[0], y + box[1]]);
  return maskToPolygons(cropRuns(runs, box), tolerance).map(({ exterior, holes }) => ({
    exterior: moved(exterior),
    holes: holes.map(moved),
  }));
}

/** All parts and holes as one line, joined by bridges without width: for formats with one polygon for each object. */
export function joined(polygons: readonly Polygon[]): Corner[] {
  const rings = polygons.flatMap(({ exterior, holes }) => [exterior, ...holes]).filter((ring) => ring.length > 2);
  if (rings.length === 0) return [];
  return rings.slice(1).reduce((line, ring) => {
    const [at, from] = nearest(line, ring);
    const around = [...ring.slice(from), ...ring.slice(0, from + 1)];
    return [...line.slice(0, at + 1), ...around, ...line.slice(at)];
  }, rings[0]);
}

function nearest(a: readonly Corner[], b: readonly Corner[]): [number, number] {
  let best: [number, number] = [0, 0];
  let least = Infinity;
  // Every corner of long lines is not needed to find a short bridge.
  const [stepA, stepB] = [a, b].map(({ length }) => Math.max(Math.floor(length / 200), 1));
  for (let i = 0; i < a.length; i += stepA) {
    for (let j = 0; j < b.length; j += stepB) {
      const distance = (a[i][0] - b[j][0]) ** 2 + (a[i][1] - b[j][1]) ** 2;
      if (distance < least) [least, best] = [distance, [i, j]];
    }
  }
  return best;
}
