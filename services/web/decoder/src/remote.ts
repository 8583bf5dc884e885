import type { DecoderFacts, LoadOptions, MaskDecoder, OpenImage, OpenOptions } from "./types.js";

/** Answers prompts by asking the server. */
export class RemoteDecoder implements MaskDecoder {
  private constructor(readonly facts: DecoderFacts) {}

  /** Ask the server for the model's facts. */
  static async load(_options: LoadOptions = {}): Promise<RemoteDecoder> {
    throw new Error("not built yet");
  }

  async open(_imageId: string, _options: OpenOptions = {}): Promise<OpenImage> {
    throw new Error("not built yet");
  }

  close(): void {}
}
