import { Closed, Superseded } from "./errors.js";
import { fromHalf, toHalves } from "./sam/half.js";
import { maskFrame } from "./sam/geometry.js";
import type { ModelFacts } from "./sam/model.js";
import { checkPrompt } from "./sam/predictor.js";
import { fetchModelFacts, findImage, jsonBody, requestJson, type EmbeddedImage, type ServerOptions } from "./server.js";
import type {
  DecoderFacts,
  LoadOptions,
  Mask,
  MaskDecoder,
  OpenImage,
  OpenOptions,
  PredictOptions,
  Prompt,
} from "./types.js";

/** Answers prompts by asking the server. The masks are the same as the Decoder's. */
export class RemoteDecoder implements MaskDecoder {
  readonly facts: DecoderFacts;
  private readonly closing = new AbortController();

  private constructor(
    private readonly model: ModelFacts,
    private readonly options: ServerOptions,
  ) {
    this.facts = { backend: "server", threads: 0, model: model.model, modelVersion: model.version, note: "" };
  }

  /** Ask the server for the model's facts. */
  static async load({ baseUrl, model, signal }: LoadOptions = {}): Promise<RemoteDecoder> {
    const facts = await fetchModelFacts({ baseUrl, model, signal });
    return new RemoteDecoder(facts, { baseUrl, model: facts.model });
  }

  /** Ask for the size of an image that the server has embedded. */
  async open(imageId: string, { signal }: OpenOptions = {}): Promise<OpenImage> {
    const image = await findImage(imageId, { ...this.options, signal });
    return new RemoteImage(image, this.model, this.options, this.closing.signal);
  }

  close(): void {
    this.closing.abort(new Closed("the decoder is closed"));
  }
}

interface MaskJson {
  candidate: number;
  predicted_iou: number;
  stability_score: number;
  low_res_logits: string;
}

class RemoteImage implements OpenImage {
  private readonly closing = new AbortController();
  private latest: AbortController | null = null;

  constructor(
    private readonly image: EmbeddedImage,
    private readonly model: ModelFacts,
    private readonly options: ServerOptions,
    private readonly decoderClosing: AbortSignal,
  ) {}

  get imageId(): string {
    return this.image.imageId;
  }

  get width(): number {
    return this.image.width;
  }

  get height(): number {
    return this.image.height;
  }

  get modelVersion(): string {
    return this.image.modelVersion;
  }

  async predict(prompt: Prompt, { signal, multimask = true }: PredictOptions = {}): Promise<Mask[]> {
    checkPrompt(prompt, this.image, this.model.lowRes);
    this.latest?.abort(new Superseded());
    const superseding = (this.latest = new AbortController());
    const signals = [superseding.signal, this.closing.signal, this.decoderClosing, ...(signal ? [signal] : [])];

    const body = {
      model: this.model.model,
      prompts: [promptJson(prompt, multimask)],
      formats: ["bits"],
      low_res_logits: true,
    };
    try {
      const answer = await requestJson<{ results: { masks: MaskJson[] }[] }>(
        `/v1/images/${this.imageId}/masks`,
        { ...this.options, signal: anyOf(signals) },
        jsonBody(body),
      );
      return answer.results[0]!.masks.map((mask) => this.read(mask));
    } finally {
      if (this.latest === superseding) this.latest = null;
    }
  }

  close(): void {
    this.closing.abort(new Closed("the image is closed"));
  }

  private read(mask: MaskJson): Mask {
    const bytes = Uint8Array.from(atob(mask.low_res_logits), (letter) => letter.charCodeAt(0));
    return {
      candidate: mask.candidate,
      logits: fromHalf(new Uint16Array(bytes.buffer)),
      side: this.model.lowRes,
      frame: maskFrame(this.model.frame, this.model.lowRes),
      predictedIou: mask.predicted_iou,
      stabilityScore: mask.stability_score,
    };
  }
}

function promptJson(prompt: Prompt, multimask: boolean): Record<string, unknown> {
  return {
    points: prompt.points ?? [],
    ...(prompt.box && { box: prompt.box }),
    ...(prompt.maskInput && { mask_input: toBase64(toHalves(prompt.maskInput)) }),
    multimask,
  };
}

function toBase64(numbers: Uint16Array): string {
  const bytes = new Uint8Array(numbers.buffer);
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
}

/** AbortSignal.any, which older browsers lack. */
function anyOf(signals: AbortSignal[]): AbortSignal {
  const controller = new AbortController();
  for (const signal of signals) {
    if (signal.aborted) controller.abort(signal.reason);
    else signal.addEventListener("abort", () => controller.abort(signal.reason), { once: true });
  }
  return controller.signal;
}
