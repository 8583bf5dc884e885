/** Downloads an image's embedding. */

import { SamserveError } from "../errors.js";
import { readBody, request, type ServerOptions } from "../server.js";
import type { OnProgress } from "../types.js";
import type { Embedding } from "./embedding.js";

interface Description {
  width: number;
  height: number;
  model_version: string;
  tensors: { name: string; dtype: string; shape: number[] }[];
}

/** Download an embedding: fp16, which the server compresses on the way. */
export async function fetchEmbedding(
  imageId: string,
  options: ServerOptions,
  onProgress?: OnProgress,
): Promise<Embedding> {
  const path = `/v1/images/${imageId}/embedding?model=${encodeURIComponent(options.model ?? "")}`;
  const response = await request(path, options);
  const description = JSON.parse(response.headers.get("samserve-embedding") ?? "null") as Description | null;
  if (!description) throw new SamserveError("the server's answer describes no embedding", "BROKEN_ANSWER");

  const sizes = description.tensors.map(({ shape }) => shape.reduce((a, b) => a * b, 1));
  const total = 2 * sizes.reduce((a, b) => a + b, 0);
  const body = await readBody(response, "embedding", total, onProgress);

  const tensors = new Map<string, Uint16Array>();
  let at = 0;
  description.tensors.forEach(({ name }, index) => {
    tensors.set(name, new Uint16Array(body, at, sizes[index]!));
    at += 2 * sizes[index]!;
  });
  return {
    size: { width: description.width, height: description.height },
    modelVersion: description.model_version,
    tensors,
  };
}
