/** The worker: downloads, prepares and decodes, so that the page stays free. */

/// <reference lib="webworker" />

import { compileKernel } from "./compile_kernel.js";
import { SamserveError } from "./errors.js";
import { toFailure } from "./failures.js";
import type { FromWorker, Replies, Request, ToWorker } from "./messages.js";
import { Session } from "./session.js";
import type { Mask, Progress } from "./types.js";

declare const self: DedicatedWorkerGlobalScope;

let session: Session | undefined;
const aborts = new Map<number, AbortController>();

self.onmessage = async ({ data }: MessageEvent<ToWorker>) => {
  if ("abort" in data) {
    aborts.get(data.id)?.abort();
    return;
  }
  const { id } = data;
  const controller = new AbortController();
  aborts.set(id, controller);
  try {
    const reply = await answer(data.request, controller.signal, (progress) => post({ id, progress }));
    post({ id, reply }, buffersOf(data.request, reply));
  } catch (error) {
    post({ id, failure: toFailure(error) });
  } finally {
    aborts.delete(id);
  }
};

async function answer(
  request: Request,
  signal: AbortSignal,
  onProgress: (progress: Progress) => void,
): Promise<Replies[keyof Replies]> {
  if (request.kind === "load") {
    const { baseUrl, model, backend } = request;
    session = await Session.load({ baseUrl, model, signal }, backend, compileKernel, onProgress);
    return session.description;
  }
  if (!session) throw new SamserveError("the decoder is not loaded", "CLOSED");
  switch (request.kind) {
    case "open":
      return session.open(request.imageId, signal, onProgress);
    case "predict":
      return session.predict(request.image, request.prompt, request.multimask);
    case "close":
      session.close(request.image);
      return null;
  }
}

/** Logits change hands without a copy. */
function buffersOf(request: Request, reply: Replies[keyof Replies]): Transferable[] {
  return request.kind === "predict" ? (reply as Mask[]).map(({ logits }) => logits.buffer as ArrayBuffer) : [];
}

function post(message: FromWorker, transfer: Transferable[] = []): void {
  self.postMessage(message, transfer);
}
