/** Having an image embedded: by its hash first, by its bytes only if the server does not know it. */

import { ImageNotEmbedded } from "@samserve/decoder";
import { send, upload } from "./failure";

export interface Embedded {
  imageId: string;
  width: number;
  height: number;
  modelVersion: string;
  /** Milliseconds of the server's stages. */
  timings: Record<string, number>;
}

export interface EmbedOptions {
  model: string;
  signal: AbortSignal;
  /** The share of the bytes that are sent. */
  onUpload: (share: number) => void;
}

/** SHA-256 in hexadecimal; null where the browser hashes nothing, as on pages without TLS. */
export async function hashOf(file: Blob): Promise<string | null> {
  if (!globalThis.crypto?.subtle) return null;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await file.arrayBuffer()));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Embed an image. `imageId` is its hash, if that is known. */
export async function embed(file: Blob, imageId: string | null, options: EmbedOptions): Promise<Embedded> {
  const url = `/v1/images?model=${encodeURIComponent(options.model)}`;
  if (imageId !== null) {
    try {
      const init = { method: "POST", body: JSON.stringify({ image_id: imageId }), signal: options.signal };
      return read(await (await send(url, { ...init, headers: { "content-type": "application/json" } })).text());
    } catch (error) {
      if (!(error instanceof ImageNotEmbedded)) throw error;
    }
  }
  const { signal, onUpload } = options;
  return read(await upload(url, file, { signal, onProgress: (loaded, total) => onUpload(total ? loaded / total : 0) }));
}

function read(text: string): Embedded {
  const answer = JSON.parse(text);
  return {
    imageId: answer.image_id,
    width: answer.width,
    height: answer.height,
    modelVersion: answer.model_version,
    timings: answer.timings_ms,
  };
}
