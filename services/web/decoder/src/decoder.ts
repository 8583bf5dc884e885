import type { DecoderFacts, LoadOptions, MaskDecoder, OpenImage, OpenOptions } from "./types.js";

/** Answers prompts on this device, in a worker. */
export class Decoder implements MaskDecoder {
  private constructor(readonly facts: DecoderFacts) {}

  /** Load a model's decoder. */
  static async load(_options: LoadOptions = {}): Promise<Decoder> {
    throw new Error("not built yet");
  }

  async open(_imageId: string, _options: OpenOptions = {}): Promise<OpenImage> {
    throw new Error("not built yet");
  }

  close(): void {}
}
