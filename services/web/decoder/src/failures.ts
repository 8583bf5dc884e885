/** Errors on their way from the worker to the page. */

import * as errors from "./errors.js";
import type { Failure } from "./messages.js";

export function toFailure(error: unknown): Failure {
  const server = error instanceof errors.ServerError ? error : null;
  const known = error instanceof errors.SamserveError ? error : null;
  return {
    kind: known?.name ?? (error instanceof Error ? error.name : "Error"),
    message: error instanceof RangeError ? `the browser is out of memory: ${error.message}` : messageOf(error),
    code: known?.code ?? "INTERNAL",
    status: server?.status ?? 0,
    field: server?.field ?? "",
    retryAfter: server?.retryAfter ?? null,
  };
}

export function fromFailure(failure: Failure): Error {
  const { kind, message, code, status, field, retryAfter } = failure;
  switch (kind) {
    case "AbortError":
      return new DOMException(message, "AbortError");
    case "ServerError":
      return new errors.ServerError(message, code, status, field, retryAfter);
    case "ImageNotEmbedded":
      return new errors.ImageNotEmbedded(message, code, status, field, retryAfter);
    case "ModelChanged":
      return new errors.ModelChanged(message, code, status, field, retryAfter);
    case "Unreachable":
      return new errors.Unreachable(message);
    case "NotDecodable":
      return new errors.NotDecodable(message);
    case "InvalidPrompt":
      return new errors.InvalidPrompt(message);
    case "Superseded":
      return new errors.Superseded();
    case "Closed":
      return new errors.Closed(message);
    default:
      return new errors.SamserveError(message, code);
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
