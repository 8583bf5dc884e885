/** The server's routes that a decoder needs, and its failures as this package's errors. */

import { ImageNotEmbedded, ModelChanged, SamserveError, ServerError, Unreachable } from "./errors.js";
import { readModelFacts, type ModelFacts, type ModelFactsJson } from "./sam/model.js";
import type { OnProgress, Progress, ServedModel } from "./types.js";

/** What the server says of an image that it has embedded. */
export interface EmbeddedImage {
  imageId: string;
  width: number;
  height: number;
  modelVersion: string;
  /** Whether the embedding was in the cache. */
  cache: "HIT" | "MISS" | "COALESCED";
}

export interface ServerOptions {
  /** Address of the gateway; empty: the page's own origin. */
  baseUrl?: string;
  /** Name of a model; empty: the default model. */
  model?: string;
  signal?: AbortSignal;
}

interface ImageJson {
  image_id: string;
  width: number;
  height: number;
  model_version: string;
  cache: EmbeddedImage["cache"];
}

/**
 * Have the server embed an image: by its SHA-256 if the server knows it, otherwise by its bytes.
 *
 * Without a secure context (https, or localhost) a browser cannot hash; the bytes are sent then.
 */
export async function embedImage(file: Blob, options: ServerOptions = {}): Promise<EmbeddedImage> {
  const path = `/v1/images?model=${encodeURIComponent(options.model ?? "")}`;
  if (globalThis.crypto?.subtle) {
    const digest = await crypto.subtle.digest("SHA-256", await file.arrayBuffer());
    const imageId = [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    try {
      return readImage(await requestJson(path, options, jsonBody({ image_id: imageId })));
    } catch (error) {
      if (!(error instanceof ImageNotEmbedded)) throw error;
    }
  }
  const headers = { "content-type": "application/octet-stream" };
  return readImage(await requestJson(path, options, { method: "POST", headers, body: file }));
}

/** Ask for an image by its id. Throws ImageNotEmbedded if its bytes must be sent. */
export async function findImage(imageId: string, options: ServerOptions = {}): Promise<EmbeddedImage> {
  const path = `/v1/images?model=${encodeURIComponent(options.model ?? "")}`;
  return readImage(await requestJson(path, options, jsonBody({ image_id: imageId })));
}

function readImage(json: ImageJson): EmbeddedImage {
  return {
    imageId: json.image_id,
    width: json.width,
    height: json.height,
    modelVersion: json.model_version,
    cache: json.cache,
  };
}

interface ModelJson {
  name: string;
  version: string;
  default: boolean;
  side: number;
  low_res: number;
  decoder_bytes: number;
  decoder_note: string;
}

/** List the models that the server serves, the default one first. */
export async function listModels(options: ServerOptions = {}): Promise<ServedModel[]> {
  const { models } = await requestJson<{ models: ModelJson[] }>("/v1/models", options);
  return models.map((model) => ({
    name: model.name,
    version: model.version,
    default: model.default,
    side: model.side,
    lowRes: model.low_res,
    browser: model.decoder_bytes ? { bytes: model.decoder_bytes } : null,
    browserNote: model.decoder_note,
  }));
}

/** What a browser needs to know of a model's decoder. */
export async function fetchModelFacts(options: ServerOptions = {}): Promise<ModelFacts> {
  let name = options.model;
  if (!name) {
    const models = await listModels(options);
    name = models[0]!.name;
  }
  return readModelFacts(await requestJson<ModelFactsJson>(`/v1/models/${encodeURIComponent(name)}/decoder`, options));
}

export function jsonBody(value: unknown): RequestInit {
  return { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(value) };
}

export async function requestJson<T>(path: string, options: ServerOptions, init: RequestInit = {}): Promise<T> {
  return (await request(path, options, init)).json() as Promise<T>;
}

/** Send a request. Throws SamserveError for every failure but an abort. */
export async function request(path: string, options: ServerOptions, init: RequestInit = {}): Promise<Response> {
  const url = `${(options.baseUrl ?? "").replace(/\/$/, "")}${path}`;
  let response: Response;
  try {
    response = await fetch(url, { ...init, signal: options.signal ?? null });
  } catch (error) {
    if (options.signal?.aborted) throw options.signal.reason;
    throw new Unreachable("the server does not answer; check the connection and try again");
  }
  if (!response.ok) throw await failureOf(response);
  return response;
}

async function failureOf(response: Response): Promise<ServerError> {
  let problem: { detail?: string; code?: string; field?: string } = {};
  try {
    problem = await response.json();
  } catch {
    // A proxy's own page.
  }
  const code = problem.code ?? "HTTP";
  const retryAfter = Number(response.headers.get("retry-after") ?? NaN);
  const kinds: Record<string, typeof ServerError> = {
    EMBEDDING_NOT_CACHED: ImageNotEmbedded,
    MODEL_VERSION_MISMATCH: ModelChanged,
  };
  return new (kinds[code] ?? ServerError)(
    problem.detail ?? `the server answered ${response.status} ${response.statusText}`.trim(),
    code,
    response.status,
    problem.field ?? "",
    Number.isNaN(retryAfter) ? null : retryAfter,
  );
}

/**
 * Read a body with progress.
 *
 * @param total - bytes of the decoded body; 0 if unknown
 */
export async function readBody(
  response: Response,
  stage: Progress["stage"],
  total: number,
  onProgress: OnProgress | undefined,
): Promise<ArrayBuffer> {
  if (!response.body) return response.arrayBuffer();
  const pieces: Uint8Array[] = [];
  let loaded = 0;
  const reader = response.body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      pieces.push(value);
      loaded += value.length;
      onProgress?.({ stage, loaded, total });
    }
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Unreachable("the connection broke while data arrived; try again");
  }
  if (total && loaded !== total) {
    throw new SamserveError(`the server sent ${loaded} bytes instead of ${total}; try again`, "TRUNCATED");
  }

  const whole = new Uint8Array(loaded);
  pieces.reduce((at, piece) => (whole.set(piece, at), at + piece.length), 0);
  return whole.buffer;
}
