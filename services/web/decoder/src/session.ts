/** A model in a worker: its engine, and the images that are open. Knows nothing of messages. */

import { Closed, ModelChanged, NotDecodable } from "./errors.js";
import type { OpenedImage } from "./messages.js";
import { KernelEngine } from "./kernel/kernel_engine.js";
import { Kernel } from "./kernel/memory.js";
import type { Engine, Prepared } from "./sam/engine.js";
import { fetchEmbedding } from "./sam/fetch_embedding.js";
import type { Size } from "./sam/geometry.js";
import type { ModelFacts } from "./sam/model.js";
import { answer, checkPrompt } from "./sam/predictor.js";
import { readSafetensors } from "./sam/safetensors.js";
import { fetchModelFacts, readBody, request, type ServerOptions } from "./server.js";
import type { DecoderFacts, LoadOptions, Mask, OnProgress, Prompt } from "./types.js";

const NO_WEBGPU = "WebGPU is not used: it has given wrong masks, and WebAssembly is fast enough";

interface Image {
  prepared: Prepared;
  size: Size;
}

export class Session {
  private readonly images = new Map<number, Image>();
  private next = 1;

  private constructor(
    private readonly options: ServerOptions,
    private facts: ModelFacts,
    private readonly engine: Engine,
    private readonly note: string,
  ) {}

  /**
   * Load a model's decoder.
   *
   * @param backend - that was asked for
   * @param compile - returns the kernel's module
   */
  static async load(
    options: ServerOptions,
    backend: NonNullable<LoadOptions["backend"]>,
    compile: () => Promise<WebAssembly.Module>,
    onProgress?: OnProgress,
  ): Promise<Session> {
    const [facts, module] = await Promise.all([fetchModelFacts(options), compile()]);
    if (!facts.digest) throw new NotDecodable(facts.note);

    const path = `/v1/models/${encodeURIComponent(facts.model)}/decoder/${facts.digest}`;
    const response = await request(path, options);
    const weights = readSafetensors(await readBody(response, "weights", facts.bytes, onProgress));
    const engine = new KernelEngine(new Kernel(module), facts, weights);
    const note = backend === "webgpu" ? NO_WEBGPU : "";
    return new Session({ ...options, model: facts.model, signal: undefined }, facts, engine, note);
  }

  get description(): DecoderFacts {
    return {
      backend: "wasm",
      threads: 1,
      model: this.facts.model,
      modelVersion: this.facts.version,
      note: this.note,
    };
  }

  /** Download an image's embedding and prepare it. */
  async open(imageId: string, signal: AbortSignal, onProgress: OnProgress): Promise<OpenedImage> {
    const embedding = await fetchEmbedding(imageId, { ...this.options, signal }, onProgress);
    await this.checkVersion(embedding.modelVersion, signal);
    signal.throwIfAborted();

    const prepared = await this.engine.prepare(embedding);
    const image = this.next++;
    this.images.set(image, { prepared, size: embedding.size });
    return { image, ...embedding.size, modelVersion: embedding.modelVersion };
  }

  async predict(image: number, prompt: Prompt, multimask: boolean): Promise<Mask[]> {
    const open = this.images.get(image);
    if (!open) throw new Closed("the image is closed");
    checkPrompt(prompt, open.size, this.facts.lowRes);
    return answer(open.prepared, open.size, this.facts, prompt, multimask);
  }

  close(image: number): void {
    this.images.get(image)?.prepared.free();
    this.images.delete(image);
  }

  /** Variants of a model share its decoder; another model under its name does not. */
  private async checkVersion(version: string, signal: AbortSignal): Promise<void> {
    if (this.facts.versions.includes(version)) return;
    const facts = await fetchModelFacts({ ...this.options, signal });
    if (facts.digest !== this.facts.digest || !facts.versions.includes(version)) {
      throw new ModelChanged(
        `the server now has another version of the model ${this.facts.model}; load it again`,
        "MODEL_VERSION_MISMATCH",
        409,
      );
    }
    this.facts = facts;
  }
}
