/** Everything in an image, or what is left beside accepted objects: the server's events. */

import type { Rle } from "@samserve/decoder";
import type { Suggestion } from "../document/content";
import { areaOf, boxOf, readRuns } from "../document/runs";
import { failureOf, send } from "./failure";
import { newId } from "../store/ids";

export interface SweepOptions {
  model: string;
  signal: AbortSignal;
  onProgress: (done: number, points: number) => void;
}

interface SweptMask {
  rle: Rle;
  predicted_iou: number;
  point: [number, number];
  sure?: boolean;
  ask?: [number, number] | null;
}

/** Segment everything. */
export async function everything(imageId: string, options: SweepOptions): Promise<Suggestion[]> {
  const masks = await sweep(`/v1/images/${imageId}/everything`, {}, options);
  return masks.map((mask) => suggestionOf(mask, "everything"));
}

/** Propose what is left beside accepted masks. */
export async function propose(imageId: string, accepted: readonly Rle[], options: SweepOptions): Promise<Suggestion[]> {
  const masks = await sweep(`/v1/images/${imageId}/proposals`, { accepted }, options);
  return masks.map((mask) => suggestionOf(mask, "proposal"));
}

async function sweep(url: string, asked: object, { model, signal, onProgress }: SweepOptions): Promise<SweptMask[]> {
  const body = JSON.stringify({ ...asked, model, points_per_batch: 16 });
  const headers = { "content-type": "application/json" };
  const response = await send(url, { method: "POST", body, headers, signal });
  for await (const [name, data] of events(response)) {
    if (name === "progress") {
      const { done, points } = JSON.parse(data);
      onProgress(done, points);
    }
    if (name === "problem") throw failureOf(JSON.parse(data).status, data, null);
    if (name === "masks") return JSON.parse(data).masks;
  }
  throw failureOf(503, JSON.stringify({ detail: "the server's answer ended early; try again" }), null);
}

/** Read server-sent events: their names and data. */
async function* events(response: Response): AsyncGenerator<[string, string]> {
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest: string[] = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    if (!value.includes("\n\n") && !rest.at(-1)?.endsWith("\n")) {
      rest.push(value);
      continue;
    }
    const blocks = (rest.join("") + value).split("\n\n");
    rest = [blocks.pop()!];
    for (const block of blocks) {
      const at = block.indexOf("\n");
      yield [block.slice("event: ".length, at), block.slice(at + 1 + "data: ".length)];
    }
  }
}

function suggestionOf(mask: SweptMask, origin: Suggestion["origin"]): Suggestion {
  const runs = readRuns(mask.rle);
  return {
    id: newId(),
    rle: mask.rle,
    area: areaOf(runs),
    box: boxOf(runs),
    score: mask.predicted_iou,
    origin,
    sure: mask.sure ?? false,
    point: mask.point,
    ask: mask.ask ?? null,
  };
}
