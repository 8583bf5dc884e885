/** Outlines of masks on the edges of pixels. */

import type { BinaryMask, Polygon } from "../types.js";

type Corner = [number, number];

const STEPS: Corner[] = [
  [0, 1], // down, right, up, left: each a left turn after the one before
  [1, 0],
  [0, -1],
  [-1, 0],
];

/**
 * The outlines of a mask's connected parts.
 *
 * Corners lie on the edges of pixels: the single pixel in column 3 and row 5 is [3, 5], [3, 6],
 * [4, 6], [4, 5]. Exteriors run counter-clockwise on the screen, holes clockwise. Pixels that touch
 * only at a corner belong to different parts.
 *
 * @param tolerance - in pixels, how far the outline may stray; 0: exact
 */
export function maskToPolygons(mask: BinaryMask, tolerance = 0): Polygon[] {
  const parts: { polygon: Polygon; ring: Corner[]; area: number }[] = [];
  const holes: Corner[][] = [];
  for (const ring of rings(mask)) {
    const area = signedArea(ring);
    if (area > 0) parts.push({ polygon: { exterior: simplify(ring, tolerance), holes: [] }, ring, area });
    else holes.push(ring);
  }

  // A hole belongs to the smallest part around it.
  parts.sort((a, b) => a.area - b.area);
  for (const hole of holes) {
    const [x, y] = hole[0]!; // the pixel to the right of a hole's first edge is of its part
    const part = parts.length === 1 ? parts[0] : parts.find(({ ring }) => contains(ring, x + 0.5, y + 0.5));
    const simple = simplify(hole, tolerance);
    if (part && simple.length > 2) part.polygon.holes.push(simple);
  }
  return parts
    .reverse()
    .map(({ polygon }) => polygon)
    .filter(({ exterior }) => exterior.length > 2);
}

/** All rings, the mask on their left-hand side. */
function* rings(mask: BinaryMask): Generator<Corner[]> {
  const { width, height, data } = mask;
  const on = (x: number, y: number) => x >= 0 && y >= 0 && x < width && y < height && data[y * width + x] !== 0;
  const seen = new Uint8Array(width * height); // left edges

  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const at = y * width + x;
      if (!data[at] || seen[at] || (x > 0 && data[at - 1])) continue;

      const ring: Corner[] = [];
      let [px, py, direction] = [x, y, 0];
      let first = true;
      while (first || px !== x || py !== y || direction !== 0) {
        first = false;
        if (direction === 0) seen[py * width + px] = 1;
        const [dx, dy] = STEPS[direction]!;
        px += dx;
        py += dy;

        // The pixels ahead, to the left and to the right.
        const ahead = [
          [px, py, px - 1, py], // down: the mask is to the east
          [px, py - 1, px, py],
          [px - 1, py - 1, px, py - 1],
          [px - 1, py, px - 1, py - 1],
        ][direction]!;
        const turn = !on(ahead[0]!, ahead[1]!) ? 1 : on(ahead[2]!, ahead[3]!) ? 3 : 0;
        if (turn) ring.push([px, py]);
        direction = (direction + turn) % 4;
      }
      // The walk began at a corner only if its first edge ended none: put the first corner in front.
      ring.unshift(ring.pop()!);
      yield ring;
    }
}

/** Positive for rings that run counter-clockwise on the screen. */
function signedArea(ring: Corner[]): number {
  let sum = 0;
  ring.forEach(([x, y], i) => {
    const [nextX, nextY] = ring[(i + 1) % ring.length]!;
    sum += nextX * y - x * nextY;
  });
  return sum / 2;
}

function contains(ring: Corner[], x: number, y: number): boolean {
  let inside = false;
  for (let i = 0, j = ring.length - 1; i < ring.length; j = i++) {
    const [[ax, ay], [bx, by]] = [ring[i]!, ring[j]!];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}

/** Drop corners of a closed ring that lines may miss by `slack` pixels. Source: Douglas and Peucker, 1973. */
function simplify(ring: Corner[], slack: number): Corner[] {
  if (slack <= 0 || ring.length < 4) return ring;
  const start = farthest(ring, 0);
  const opposite = farthest(ring, start);
  const kept = new Uint8Array(ring.length);
  kept[start] = kept[opposite] = 1;

  const stack: Corner[] = [
    [start, opposite < start ? opposite + ring.length : opposite],
    [opposite, start < opposite ? start + ring.length : start],
  ];
  while (stack.length) {
    const [from, to] = stack.pop()!;
    let [worst, most] = [-1, slack];
    for (let i = from + 1; i < to; i++) {
      const distance = toSegment(ring[i % ring.length]!, ring[from % ring.length]!, ring[to % ring.length]!);
      if (distance > most) [worst, most] = [i, distance];
    }
    if (worst < 0) continue;
    kept[worst % ring.length] = 1;
    stack.push([from, worst], [worst, to]);
  }
  return ring.filter((_, i) => kept[i]);
}

function farthest(ring: Corner[], from: number): number {
  let [best, most] = [from, -1];
  ring.forEach(([x, y], i) => {
    const distance = Math.hypot(x - ring[from]![0], y - ring[from]![1]);
    if (distance > most) [best, most] = [i, distance];
  });
  return best;
}

function toSegment([x, y]: Corner, [ax, ay]: Corner, [bx, by]: Corner): number {
  const [dx, dy] = [bx - ax, by - ay];
  const length = dx * dx + dy * dy;
  const along = length ? Math.min(Math.max(((x - ax) * dx + (y - ay) * dy) / length, 0), 1) : 0;
  return Math.hypot(x - ax - along * dx, y - ay - along * dy);
}
