/** The package against the server, on what tests/web/fixtures.py wrote; skipped without it. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { KernelEngine } from "../src/kernel/kernel_engine.js";
import { Kernel } from "../src/kernel/memory.js";
import { area, bbox, decodeRle, encodeRle, iou, toBinary, toRle } from "../src/masks/index.js";
import type { Embedding } from "../src/sam/embedding.js";
import type { Prepared } from "../src/sam/engine.js";
import { readModelFacts, type ModelFacts, type ModelFactsJson } from "../src/sam/model.js";
import { answer } from "../src/sam/predictor.js";
import { readSafetensors } from "../src/sam/safetensors.js";
import type { Mask, Point, Prompt } from "../src/types.js";

interface MaskFixture {
  candidate: number;
  predicted_iou: number;
  stability_score: number;
  rle: string;
  coco: string;
  area: number;
  bbox: number[];
}

interface Fixture {
  name: string;
  facts: ModelFactsJson;
  width: number;
  height: number;
  weights: string;
  tensors: string[];
  cases: { name: string; points: Point[]; box: [number, number, number, number] | null; mask_input: boolean; multimask: boolean; masks: MaskFixture[] }[];
}

const folder = process.env.SAMSERVE_FIXTURES ?? "";
const fixtures: Fixture[] = folder ? JSON.parse(readFileSync(join(folder, "fixtures.json"), "utf8")) : [];

function bytes(...path: string[]): ArrayBuffer {
  const file = readFileSync(join(...path));
  return file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength) as ArrayBuffer;
}

const KERNEL = join(import.meta.dirname, "..", "wasm", "kernel.wasm");

describe.each(fixtures)("$name", (fixture) => {
  let facts: ModelFacts;
  let image: Prepared;
  const size = { width: fixture.width, height: fixture.height };

  beforeAll(async () => {
    facts = readModelFacts(fixture.facts);
    const kernel = new Kernel(new WebAssembly.Module(bytes(KERNEL)));
    const engine = new KernelEngine(kernel, facts, readSafetensors(bytes(folder, fixture.weights)));
    const tensors = new Map(fixture.tensors.map((name) => [name, new Uint16Array(bytes(folder, `${fixture.name}-${name}.bin`))]));
    const embedding: Embedding = { size, modelVersion: facts.version, tensors };
    image = await engine.prepare(embedding);
  }, 600_000);

  it.each(fixture.cases)("$name: the masks are the server's", async (expected) => {
    const stored = (name: string) => new Float32Array(bytes(folder, `${fixture.name}-${expected.name}-${name}.bin`));
    const prompt: Prompt = {
      points: expected.points,
      ...(expected.box && { box: expected.box }),
      ...(expected.mask_input && { maskInput: stored("input") }),
    };
    const masks = await answer(image, size, facts, prompt, expected.multimask);
    expect(masks.map(({ candidate }) => candidate)).toEqual(expected.masks.map(({ candidate }) => candidate));

    masks.forEach((mask, index) => {
      const served = expected.masks[index]!;
      expect(mask.predictedIou).toBeCloseTo(served.predicted_iou, 3);
      expect(mask.stabilityScore).toBeCloseTo(served.stability_score, 3);

      const pixels = toBinary(mask, size.width, size.height);
      const theirs = decodeRle({ size: [size.height, size.width], counts: served.rle });
      if (served.area > 0) expect(iou(pixels, theirs)).toBeGreaterThan(0.99);

      // From the same logits come the same pixels, but for a value that rounds to 0 on one side.
      const exact: Mask = { ...mask, logits: stored(String(index)) };
      const drawn = toBinary(exact, size.width, size.height);
      expect(drawn.data.filter((value, i) => value !== theirs.data[i]).length).toBeLessThanOrEqual(2);
      expect(toRle(exact, size.width, size.height)).toEqual(encodeRle(drawn));

      // From the same pixels come the same bytes as from pycocotools.
      expect(encodeRle(theirs).counts).toBe(served.coco);
      expect(area(theirs)).toBe(served.area);
      expect(bbox(theirs)).toEqual(served.bbox);
    });
  });
});

it.skipIf(fixtures.length > 0)("parity: skipped, because tests/web writes its fixtures; run pytest tests/web", () => {});
