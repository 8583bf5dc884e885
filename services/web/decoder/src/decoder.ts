import { Closed, Superseded } from "./errors.js";
import { fromFailure } from "./failures.js";
import type { FromWorker, OpenedImage, Replies, Request } from "./messages.js";
import type {
  DecoderFacts,
  LoadOptions,
  Mask,
  MaskDecoder,
  OnProgress,
  OpenImage,
  OpenOptions,
  PredictOptions,
  Prompt,
} from "./types.js";

/** Answers prompts on this device, in a worker. */
export class Decoder implements MaskDecoder {
  private constructor(
    readonly facts: DecoderFacts,
    private readonly worker: WorkerCalls,
  ) {}

  /**
   * Load a model's decoder.
   *
   * Throws NotDecodable if the model cannot be decoded in a browser: use RemoteDecoder then.
   */
  static async load(options: LoadOptions = {}): Promise<Decoder> {
    const worker = new WorkerCalls();
    const { baseUrl = "", model = "", backend = "auto", signal, onProgress } = options;
    try {
      const address = new URL(baseUrl || "/", globalThis.location.href).href;
      const facts = await worker.call({ kind: "load", baseUrl: address, model, backend }, signal, onProgress);
      return new Decoder(facts, worker);
    } catch (error) {
      worker.close("the decoder could not be loaded");
      throw error;
    }
  }

  /** Download and prepare an image that the server has embedded. */
  async open(imageId: string, options: OpenOptions = {}): Promise<OpenImage> {
    const opened = await this.worker.call({ kind: "open", imageId }, options.signal, options.onProgress);
    return new LocalImage(imageId, opened, this.worker);
  }

  close(): void {
    this.worker.close("the decoder is closed");
  }
}

interface Waiting {
  prompt: Prompt;
  multimask: boolean;
  signal: AbortSignal | undefined;
  resolve(masks: Mask[]): void;
  reject(error: unknown): void;
}

/** An image in the worker. One prompt is decoded at a time; of those that wait, only the latest is kept. */
class LocalImage implements OpenImage {
  private busy = false;
  private waiting: Waiting | null = null;
  private closed = false;

  constructor(
    readonly imageId: string,
    private readonly opened: OpenedImage,
    private readonly worker: WorkerCalls,
  ) {}

  get width(): number {
    return this.opened.width;
  }

  get height(): number {
    return this.opened.height;
  }

  get modelVersion(): string {
    return this.opened.modelVersion;
  }

  predict(prompt: Prompt, { signal, multimask = true }: PredictOptions = {}): Promise<Mask[]> {
    return new Promise((resolve, reject) => {
      if (this.closed) return reject(new Closed("the image is closed"));
      this.waiting?.reject(new Superseded());
      this.waiting = { prompt, multimask, signal, resolve, reject };
      signal?.addEventListener("abort", () => this.withdraw(signal), { once: true });
      void this.next();
    });
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.waiting?.reject(new Closed("the image is closed"));
    this.waiting = null;
    this.worker.call({ kind: "close", image: this.opened.image }).catch(() => {});
  }

  private withdraw(signal: AbortSignal): void {
    if (this.waiting?.signal !== signal) return;
    this.waiting.reject(signal.reason);
    this.waiting = null;
  }

  private async next(): Promise<void> {
    if (this.busy || !this.waiting) return;
    const { prompt, multimask, signal, resolve, reject } = this.waiting;
    this.waiting = null;
    if (signal?.aborted) {
      reject(signal.reason);
      return this.next();
    }
    this.busy = true;
    try {
      resolve(await this.worker.call({ kind: "predict", image: this.opened.image, prompt, multimask }, signal));
    } catch (error) {
      reject(error);
    } finally {
      this.busy = false;
      void this.next();
    }
  }
}

interface Pending {
  resolve(reply: Replies[keyof Replies]): void;
  reject(error: unknown): void;
  onProgress: OnProgress | undefined;
}

/** Calls into a worker. */
class WorkerCalls {
  private readonly worker = new Worker(new URL("./worker.js", import.meta.url), {
    type: "module",
    name: "samserve-decoder",
  });
  private readonly pending = new Map<number, Pending>();
  private nextId = 1;
  private ended = "";

  constructor() {
    this.worker.onmessage = ({ data }: MessageEvent<FromWorker>) => this.receive(data);
    this.worker.onerror = (event) => this.close(`the decoder's worker failed: ${event.message || "it did not start"}`);
  }

  call<R extends Request>(request: R, signal?: AbortSignal, onProgress?: OnProgress): Promise<Replies[R["kind"]]> {
    return new Promise((resolve, reject) => {
      if (this.ended) return reject(new Closed(this.ended));
      if (signal?.aborted) return reject(signal.reason);
      const id = this.nextId++;
      this.pending.set(id, { resolve: resolve as Pending["resolve"], reject, onProgress });
      signal?.addEventListener("abort", () => this.abort(id, request, signal.reason), { once: true });
      this.worker.postMessage({ id, request });
    });
  }

  close(reason: string): void {
    this.ended ||= reason;
    this.worker.terminate();
    for (const { reject } of this.pending.values()) reject(new Closed(this.ended));
    this.pending.clear();
  }

  private abort(id: number, request: Request, reason: unknown): void {
    const call = this.pending.get(id);
    if (!call) return;
    this.worker.postMessage({ id, abort: true });
    call.reject(reason);

    // The worker may be past the point where it can stop: nobody holds what it opens then.
    const discard = (reply: Replies[keyof Replies]) => {
      if (request.kind !== "open") return;
      this.call({ kind: "close", image: (reply as OpenedImage).image }).catch(() => {});
    };
    this.pending.set(id, { resolve: discard, reject: () => {}, onProgress: undefined });
  }

  private receive(message: FromWorker): void {
    const call = this.pending.get(message.id);
    if (!call) return;
    if ("progress" in message) return call.onProgress?.(message.progress);
    this.pending.delete(message.id);
    if ("failure" in message) call.reject(fromFailure(message.failure));
    else call.resolve(message.reply);
  }
}
