/** Turns prompts into ranked masks; samserve/decoder/prompt.py and sam/mask_decoder.py do it on the server. */

import { InvalidPrompt } from "../errors.js";
import type { Mask, Prompt } from "../types.js";
import type { DecodeRequest, Decoded, Prepared } from "./engine.js";
import { fit, maskFrame, type Size } from "./geometry.js";
import type { ModelFacts } from "./model.js";

const MOST_POINTS = 64; // as on the server
const CANDIDATES = [1, 2, 3];
const PADDING = -1;

/** Check a prompt. Throws InvalidPrompt, with what is wrong. */
export function checkPrompt(prompt: Prompt, size: Size, lowRes: number): void {
  const points = prompt.points ?? [];
  if (!points.length && !prompt.box && !prompt.maskInput) {
    throw new InvalidPrompt("the prompt is empty: give points, a box or a mask");
  }
  if (points.length > MOST_POINTS) throw new InvalidPrompt(`${points.length} points; the limit is ${MOST_POINTS}`);

  const inside = (x: number, y: number) => x >= 0 && y >= 0 && x <= size.width && y <= size.height;
  for (const { x, y } of points) {
    if (!inside(x, y)) throw new InvalidPrompt(`point ${x}, ${y} is outside the image of ${size.width} x ${size.height}`);
  }
  if (prompt.box) {
    const [x0, y0, x1, y1] = prompt.box;
    if (!inside(x0, y0) || !inside(x1, y1)) {
      throw new InvalidPrompt(`box ${prompt.box.join(", ")} is outside the image of ${size.width} x ${size.height}`);
    }
    if (!(x0 < x1 && y0 < y1)) throw new InvalidPrompt("the box is empty: x0 must be less than x1, and y0 less than y1");
  }
  const logits = prompt.maskInput;
  if (logits && logits.length !== lowRes ** 2) {
    throw new InvalidPrompt(`the mask input has ${logits.length} logits; expected ${lowRes} x ${lowRes}`);
  }
}

/** Answer a prompt: the masks, best first. */
export async function answer(
  image: Prepared,
  size: Size,
  facts: ModelFacts,
  prompt: Prompt,
  multimask: boolean,
): Promise<Mask[]> {
  const dynamic = facts.dynamicSingleMask && !multimask;
  const wanted = dynamic ? [0, ...CANDIDATES] : multimask ? CANDIDATES : [0];
  const decoded = await image.decode({ ...tokens(prompt, size, facts), maskInput: prompt.maskInput ?? null, wanted });

  let { logits } = decoded;
  let kept = wanted;
  if (dynamic) {
    kept = [chooseSingle(decoded, facts.singleMask)];
    logits = [logits[kept[0]!]!];
  }
  return rank(logits, kept.map((number) => decoded.ious[number]!), size, facts);
}

/** The points, the box's corners and the padding of a prompt, in frame pixels. */
export function tokens(prompt: Prompt, size: Size, facts: ModelFacts): Pick<DecodeRequest, "points" | "labels"> {
  const inner = fit(size, facts.frame);
  const places: number[] = [];
  const labels: number[] = [];
  const add = (x: number, y: number, label: number) => {
    places.push(Math.fround(x) * (inner.width / size.width), Math.fround(y) * (inner.height / size.height));
    labels.push(label);
  };

  const points = prompt.points ?? [];
  for (const { x, y, label } of points) add(x, y, label === "background" ? 0 : 1);
  if (prompt.box) {
    add(prompt.box[0], prompt.box[1], 2);
    add(prompt.box[2], prompt.box[3], 3);
  }

  // SAM pads points that come without a box; SAM 2 pads every prompt.
  const padding = facts.alwaysPadded ? (points.length || prompt.box ? 1 : 2) : points.length && !prompt.box ? 1 : 0;
  for (let i = 0; i < padding; i++) {
    places.push(0, 0);
    labels.push(PADDING);
  }
  return { points: Float32Array.from(places), labels: Float32Array.from(labels) };
}

/** SAM 2's choice: mask 0 if it is stable, otherwise the best of the other three. */
function chooseSingle({ logits, ious }: Decoded, rule: ModelFacts["singleMask"]): number {
  let [certain, possible] = [0, 0];
  for (const value of logits[0]!) {
    if (value > rule.delta) certain++;
    if (value > -rule.delta) possible++;
  }
  if (certain >= rule.threshold * possible) return 0;
  return CANDIDATES.reduce((best, number) => (ious[number]! > ious[best]! ? number : best), 1);
}

/** Score the masks and put the best first: by predicted IoU times stability. */
function rank(logits: Float32Array[], ious: number[], size: Size, facts: ModelFacts): Mask[] {
  const frame = maskFrame(facts.frame, facts.lowRes);
  return logits
    .map((each, candidate) => ({
      candidate,
      logits: each,
      side: facts.lowRes,
      frame,
      predictedIou: ious[candidate]!,
      stabilityScore: stability(each, facts.lowRes, size, frame),
    }))
    .sort((a, b) => b.predictedIou * b.stabilityScore - a.predictedIou * a.stabilityScore);
}

/** IoU of the masks cut at logits +1 and -1, without the frame's padding; 0 if both are empty. */
export function stability(logits: Float32Array, side: number, size: Size, frame: Mask["frame"]): number {
  const inner = fit(size, frame);
  const rows = Math.ceil(inner.height / (frame.side / side));
  const columns = Math.ceil(inner.width / (frame.side / side));
  let [certain, possible] = [0, 0];
  for (let y = 0; y < rows; y++)
    for (let x = 0; x < columns; x++) {
      const value = logits[y * side + x]!;
      if (value > 1) certain++;
      if (value > -1) possible++;
    }
  return possible ? certain / possible : 0;
}
