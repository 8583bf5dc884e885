import type { ServedModel } from "./types.js";

/** What the server says of an image that it has embedded. */
export interface EmbeddedImage {
  imageId: string;
  width: number;
  height: number;
  modelVersion: string;
}

export interface ServerOptions {
  baseUrl?: string;
  model?: string;
  signal?: AbortSignal;
}

/** Have the server embed an image: by its id if it knows it, otherwise by its bytes. */
export async function embedImage(_file: Blob, _options: ServerOptions = {}): Promise<EmbeddedImage> {
  throw new Error("not built yet");
}

/** List the models that the server serves, the default one first. */
export async function listModels(_options: ServerOptions = {}): Promise<ServedModel[]> {
  throw new Error("not built yet");
}
