/** The server and the decoder: opening images, and answering prompts on the one that is open. */

import { signal } from "@preact/signals";
import {
  Closed,
  Decoder,
  type DecoderFacts,
  ImageNotEmbedded,
  listModels,
  type Mask,
  type MaskDecoder,
  ModelChanged,
  NotDecodable,
  type OpenImage,
  type PredictOptions,
  type Prompt,
  RemoteDecoder,
  type ServedModel,
  Unreachable,
} from "@samserve/decoder";
import { controlled } from "../offline";
import { embed, type Embedded, hashOf } from "../server/embed";
import { isPassing, sentenceOf } from "../server/failure";
import { pause, persist, waitBefore } from "../server/persist";
import { notify } from "./notices";
import { model, place } from "./settings";
import { record } from "./timings";

/** What is being done with the current image; `share` from 0 to 1, or null if it is not known. */
export interface Stage {
  kind: "none" | "working" | "waiting" | "ready" | "failed";
  text: string;
  share: number | null;
}

const NO_STAGE: Stage = { kind: "none", text: "", share: null };
const MOST_REOPENINGS = 3;

export class Connection {
  readonly models = signal<readonly ServedModel[]>([]);
  readonly facts = signal<DecoderFacts | null>(null);
  readonly stage = signal<Stage>(NO_STAGE);

  private decoder: { key: string; loading: Promise<MaskDecoder> } | null = null;
  private image: OpenImage | null = null;
  private reopen: (() => Promise<OpenImage>) | null = null;
  private left = new AbortController();

  /** The name of the model that requests have. */
  get model(): string {
    return this.models.value.some(({ name }) => name === model.value) ? model.value : "";
  }

  /** Aborts when the current image is left. */
  get signal(): AbortSignal {
    return this.left.signal;
  }

  /** Leave the current image. */
  leave(): void {
    this.left.abort(new DOMException("left", "AbortError"));
    this.left = new AbortController();
    this.image?.close();
    this.image = null;
    this.reopen = null;
    this.stage.value = NO_STAGE;
  }

  /** Load the decoder before there is an image. */
  async warm(): Promise<void> {
    try {
      await this.load();
    } catch {
      // Opening an image tries again, and says what failed.
    }
  }

  /**
   * Open an image for prompts. It waits for a server that is away, as long as the image is not left.
   *
   * @param imageId the hash of its bytes; null if the browser hashes nothing.
   * @returns the image's id, and its size as the server sees it.
   */
  async open(file: Blob, imageId: string | null): Promise<{ imageId: string; width: number; height: number }> {
    const { signal } = this;
    this.reopen = () => this.openOnce(file, imageId, signal);
    try {
      const opened = await this.reopen();
      this.image = opened;
      this.stage.value = { kind: "ready", text: "", share: null };
      return opened;
    } catch (error) {
      if (!signal.aborted) this.stage.value = { kind: "failed", text: sentenceOf(error), share: null };
      throw error;
    }
  }

  /** Have an image embedded before it is opened. */
  async prewarm(file: Blob, signal: AbortSignal): Promise<void> {
    await embed(file, await hashOf(file), { model: this.model, signal, onUpload: () => {} });
  }

  /** Whether prompts can be answered. */
  get isOpen(): boolean {
    return this.image !== null;
  }

  /** Answer a prompt on the open image. It waits for a server that is away, and follows a change of the model. */
  async predict(prompt: Prompt, options: PredictOptions = {}): Promise<Mask[]> {
    const { signal } = this;
    for (let reopenings = 0; ; reopenings++) {
      if (!this.image) throw new Closed("the image is not open");
      try {
        const { image } = this;
        return await this.insist(() => image.predict(prompt, { ...options, signal: options.signal ?? signal }), signal);
      } catch (error) {
        const again = error instanceof ModelChanged || error instanceof ImageNotEmbedded || error instanceof Closed;
        if (!again || !this.reopen || signal.aborted || reopenings >= MOST_REOPENINGS) throw error;
        if (error instanceof ModelChanged) this.changeModel();
        if (error instanceof Closed) this.decoder = null;
        this.image = await this.reopen();
        this.stage.value = { kind: "ready", text: "", share: null };
      }
    }
  }

  private async openOnce(file: Blob, imageId: string | null, signal: AbortSignal): Promise<OpenImage> {
    let lost = 0; // how often the embedding was not there any more
    for (let attempt = 0; ; attempt++) {
      try {
        const decoder = this.load();
        decoder.catch(() => {}); // awaited below
        const embedded = await this.embed(file, imageId, signal);
        this.work("Loading the decoder");
        return await this.insist(async () => {
          const ready = await this.load();
          return ready.open(embedded?.imageId ?? imageId!, { signal, onProgress: this.showDownload });
        }, signal);
      } catch (error) {
        if (signal.aborted || attempt - lost >= MOST_REOPENINGS) throw error;
        if (error instanceof ModelChanged) this.changeModel();
        else if (error instanceof NotDecodable) this.useServer(error);
        else if (!(error instanceof ImageNotEmbedded)) throw error;
        else if (++lost > 1) {
          // Its cache is overloaded, or too small.
          const seconds = waitBefore(lost - 1);
          this.wait("The server has lost the image’s embedding.", seconds);
          await pause(seconds, signal);
        }
      }
    }
  }

  /** Have the image embedded. Null: the server is away, but this device may still have the embedding. */
  private async embed(file: Blob, imageId: string | null, signal: AbortSignal): Promise<Embedded | null> {
    this.work("Embedding");
    const options = {
      model: this.model,
      signal,
      onUpload: (share: number) => this.work(share < 1 ? "Uploading" : "Embedding", share < 1 ? share : null),
    };
    try {
      const embedded = await embed(file, imageId, options);
      const server = Object.values(embedded.timings).reduce((sum, each) => sum + each, 0);
      if (server > 0) record("embed", server);
      return embedded;
    } catch (error) {
      if (!isPassing(error)) throw error;
      if (error instanceof Unreachable && imageId !== null && (await this.isKept(imageId, signal))) return null;
      return this.insist(() => embed(file, imageId, options), signal);
    }
  }

  private async isKept(imageId: string, signal: AbortSignal): Promise<boolean> {
    if (place.value === "server") return false;
    try {
      (await (await this.load()).open(imageId, { signal })).close();
      return true;
    } catch {
      return false;
    }
  }

  /** The decoder for the place and the model of now. */
  private load(): Promise<MaskDecoder> {
    const key = `${place.value} ${model.value}`;
    if (this.decoder?.key !== key) {
      void this.decoder?.loading.then((before) => before.close()).catch(() => {});
      const loading = this.loadNow();
      this.decoder = { key, loading };
      loading.catch(() => {
        if (this.decoder?.loading === loading) this.decoder = null;
      });
    }
    return this.decoder.loading;
  }

  private async loadNow(): Promise<MaskDecoder> {
    await controlled;
    if (this.models.value.length === 0) this.models.value = await listModels();
    const options = { model: this.model };
    const loaded =
      place.value === "server"
        ? await RemoteDecoder.load(options)
        : await Decoder.load({ ...options, onProgress: this.showDownload });
    this.facts.value = loaded.facts;
    return loaded;
  }

  private changeModel(): void {
    notify("The server has another version of the model. The image is embedded again; your work is kept.");
    void this.decoder?.loading.then((before) => before.close()).catch(() => {});
    this.decoder = null;
    this.models.value = [];
  }

  private useServer(reason: NotDecodable): void {
    notify(`${sentenceOf(reason)} Masks are decoded on the server.`);
    place.value = "server";
    this.decoder = null;
  }

  /** Do something again and again while the server is away, and say so. */
  private insist<T>(action: () => Promise<T>, signal: AbortSignal): Promise<T> {
    const before = this.stage.value;
    const retried = persist(action, {
      signal,
      onWait: (error, seconds) => this.wait(sentenceOf(error), seconds),
    });
    return retried.then((result) => {
      if (this.stage.value.kind === "waiting") this.stage.value = before;
      return result;
    });
  }

  private wait(sentence: string, seconds: number): void {
    const text = `${sentence} Trying again in ${Math.round(seconds)} s; your work is kept.`;
    this.stage.value = { kind: "waiting", text, share: null };
  }

  private work(text: string, share: number | null = null): void {
    this.stage.value = { kind: "working", text, share };
  }

  private readonly showDownload = ({ stage, loaded, total }: { stage: string; loaded: number; total: number }) => {
    if (this.stage.value.kind !== "working") return;
    const text = stage === "embedding" ? "Downloading the embedding" : "Downloading the decoder";
    this.work(text, total > 0 ? loaded / total : null);
  };
}
