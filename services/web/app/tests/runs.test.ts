import { describe, expect, test } from "vitest";
import { ringRuns } from "../src/document/polygon";
import {
  areaOf,
  boxOf,
  contains,
  cropRuns,
  difference,
  intersection,
  type Runs,
  readRuns,
  runsOfCounts,
  union,
  writeRuns,
} from "../src/document/runs";
import { applyStrokes, strokeRuns } from "../src/document/stroke";

const WIDTH = 23;
const HEIGHT = 17;

/** A mask of pixels by a rule. */
function where(rule: (x: number, y: number) => boolean): Runs {
  const counts: number[] = [0];
  let on = false;
  for (let x = 0; x < WIDTH; x++) {
    for (let y = 0; y < HEIGHT; y++) {
      if (rule(x, y) !== on) {
        on = !on;
        counts.push(0);
      }
      counts[counts.length - 1]++;
    }
  }
  return runsOfCounts(counts, WIDTH, HEIGHT);
}

function pixels(runs: Runs): Uint8Array {
  return cropRuns(runs, [0, 0, runs.width, runs.height]).data;
}

/** Rules that touch the edges, are empty, full, and without order. */
const RULES: Record<string, (x: number, y: number) => boolean> = {
  empty: () => false,
  full: () => true,
  disc: (x, y) => (x - 10) ** 2 + (y - 8) ** 2 < 30,
  corner: (x, y) => x < 3 && y > 12,
  noise: (x, y) => (x * 7919 + y * 104729) % 5 < 2,
};
const NAMES = Object.keys(RULES);

describe.each(NAMES)("%s", (name) => {
  const rule = RULES[name];
  const runs = where(rule);

  test("survives COCO's compressed counts", () => {
    expect(readRuns(writeRuns(runs))).toEqual(runs);
  });

  test("has its pixels, area and box", () => {
    const on: [number, number][] = [];
    for (let x = 0; x < WIDTH; x++) for (let y = 0; y < HEIGHT; y++) if (rule(x, y)) on.push([x, y]);
    expect(areaOf(runs)).toBe(on.length);
    expect(pixels(runs).reduce((sum, each) => sum + each, 0)).toBe(on.length);
    for (const [x, y] of on) expect(contains(runs, x, y)).toBe(true);
    const [xs, ys] = [on.map(([x]) => x), on.map(([, y]) => y)];
    const box = on.length ? [Math.min(...xs), Math.min(...ys), Math.max(...xs) + 1, Math.max(...ys) + 1] : [0, 0, 0, 0];
    expect(boxOf(runs)).toEqual(box);
  });

  test.each(NAMES)("combines with %s", (other) => {
    const [a, b] = [rule, RULES[other]];
    const second = where(b);
    expect(union(runs, second)).toEqual(where((x, y) => a(x, y) || b(x, y)));
    expect(difference(runs, second)).toEqual(where((x, y) => a(x, y) && !b(x, y)));
    expect(intersection(runs, second)).toEqual(where((x, y) => a(x, y) && b(x, y)));
  });
});

test("counts are those of pycocotools", () => {
  // mask.encode of a 5 x 4 mask with the pixels (1, 1), (1, 2), (2, 1)
  expect(writeRuns(runsOfCounts([5, 2, 2, 1, 10], 5, 4)).counts).toBe("522O8");
});

test("run lengths of another size are refused", () => {
  expect(() => runsOfCounts([5, 2], 5, 4)).toThrow("do not fit");
});

test("a stroke is every pixel whose centre is within its radius", () => {
  const path = [4.2, 3.1, 15.7, 9.4, 15.7, 14];
  const radius = 2.6;
  const near = (x: number, y: number, ax: number, ay: number, bx: number, by: number) => {
    const t = ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2);
    const at = Math.min(Math.max(t, 0), 1);
    return Math.hypot(x - ax - at * (bx - ax), y - ay - at * (by - ay)) <= radius;
  };
  const expected = where(
    (x, y) => near(x + 0.5, y + 0.5, 4.2, 3.1, 15.7, 9.4) || near(x + 0.5, y + 0.5, 15.7, 9.4, 15.7, 14),
  );
  expect(strokeRuns({ erase: false, radius, path }, WIDTH, HEIGHT)).toEqual(expected);
});

test("an eraser takes away what a brush has drawn", () => {
  const empty = where(RULES.empty);
  const brush = { erase: false, radius: 3, path: [10, 8] };
  const drawn = applyStrokes(empty, [brush]);
  expect(areaOf(drawn)).toBeGreaterThan(20);
  expect(applyStrokes(drawn, [{ ...brush, erase: true }])).toEqual(empty);
});

test("a polygon is every pixel whose centre is inside", () => {
  expect(ringRuns([2, 3, 9, 3, 9, 8, 2, 8], WIDTH, HEIGHT)).toEqual(where((x, y) => x >= 2 && x < 9 && y >= 3 && y < 8));
  const inTriangle = where((x, y) => x + 0.5 > 0 && y + 0.5 > 0 && x + y + 1 < 10);
  expect(ringRuns([0, 0, 10, 0, 0, 10], WIDTH, HEIGHT)).toEqual(inTriangle);
});
