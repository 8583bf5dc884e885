/** What the server says of a model's decoder: `GET /v1/models/{name}/decoder`. */

import type { Frame } from "../types.js";

export interface ModelFacts {
  model: string;
  version: string;
  frame: Frame;
  lowRes: number;
  /** Shapes of the embedding's tensors by name. */
  embedding: Record<string, number[]>;
  /** Versions whose embeddings it decodes: those of all the model's variants. */
  versions: string[];
  /** SHA-256 of the weights' file; empty if a browser cannot decode the model. */
  digest: string;
  /** Of the weights' file. */
  bytes: number;
  /** Why a browser cannot decode the model, as a sentence to show. */
  note: string;
  /** Weights whose rows precede a prompt's own tokens. */
  tokenWeights: string[];
  fineMaps: string[];
  normEpsilon: number;
  sigmoidIou: boolean;
  alwaysPadded: boolean;
  dynamicSingleMask: boolean;
  singleMask: { delta: number; threshold: number };
}

/** A decoder as the server sends it: everything in snake case. */
export interface ModelFactsJson {
  model: string;
  version: string;
  frame: number;
  stretch: boolean;
  low_res: number;
  embedding: Record<string, number[]>;
  versions: string[];
  digest: string;
  bytes: number;
  note: string;
  token_weights: string[];
  fine_maps: string[];
  norm_epsilon: number;
  sigmoid_iou: boolean;
  always_padded: boolean;
  dynamic_single_mask: boolean;
  single_mask: { delta: number; threshold: number };
}

export function readModelFacts(json: ModelFactsJson): ModelFacts {
  return {
    model: json.model,
    version: json.version,
    frame: { side: json.frame, stretch: json.stretch },
    lowRes: json.low_res,
    embedding: json.embedding,
    versions: json.versions,
    digest: json.digest,
    bytes: json.bytes,
    note: json.note,
    tokenWeights: json.token_weights,
    fineMaps: json.fine_maps,
    normEpsilon: json.norm_epsilon,
    sigmoidIou: json.sigmoid_iou,
    alwaysPadded: json.always_padded,
    dynamicSingleMask: json.dynamic_single_mask,
    singleMask: json.single_mask,
  };
}
