/** What can go wrong with the server, as the decoder's package names it. */

import { ImageNotEmbedded, ModelChanged, ServerError, Superseded, Unreachable } from "@samserve/decoder";

const GONE = "The server does not answer.";

/** The error of an answer with problem details. */
export function failureOf(status: number, body: string, retryAfter: string | null): ServerError {
  let problem: { detail?: string; code?: string; field?: string } = {};
  try {
    problem = JSON.parse(body);
  } catch {
    // A proxy's page, not the gateway's answer.
  }
  const message = problem.detail ?? `the server answered with status ${status}`;
  const code = problem.code ?? "UNKNOWN";
  const Kind =
    code === "EMBEDDING_NOT_CACHED" ? ImageNotEmbedded : code === "MODEL_VERSION_MISMATCH" ? ModelChanged : ServerError;
  return new Kind(message, code, status, problem.field ?? "", retryAfter === null ? null : Number(retryAfter));
}

/** Send a request. Throws what `failureOf` makes of a failure, or Unreachable. */
export async function send(url: string, init: RequestInit): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(url, init);
  } catch (error) {
    if (isAborted(error)) throw error;
    throw new Unreachable(GONE);
  }
  if (response.ok) return response;
  throw failureOf(response.status, await response.text(), response.headers.get("retry-after"));
}

/** POST bytes with progress, which fetch does not report. */
export function upload(
  url: string,
  body: Blob,
  options: { signal: AbortSignal; onProgress: (loaded: number, total: number) => void },
): Promise<string> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", url);
    request.setRequestHeader("content-type", "application/octet-stream");
    request.upload.onprogress = ({ loaded, total }) => options.onProgress(loaded, total);
    request.onerror = () => reject(new Unreachable(GONE));
    request.onabort = () => reject(new DOMException("left", "AbortError"));
    request.onload = () => {
      if (request.status < 400) resolve(request.responseText);
      else reject(failureOf(request.status, request.responseText, request.getResponseHeader("retry-after")));
    };
    options.signal.addEventListener("abort", () => request.abort(), { once: true });
    if (options.signal.aborted) reject(new DOMException("left", "AbortError"));
    else request.send(body);
  });
}

/** Whether the caller itself has ended the work. */
export function isAborted(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}

/** Whether an error is no failure: the work was ended, or a later prompt took its place. */
export function isLeft(error: unknown): boolean {
  return isAborted(error) || error instanceof Superseded;
}

/** Whether the same request can succeed later. */
export function isPassing(error: unknown): boolean {
  return error instanceof Unreachable || (error instanceof ServerError && [408, 429, 502, 503, 504].includes(error.status));
}

/** One sentence to show. */
export function sentenceOf(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  const sentence = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(sentence) ? sentence : `${sentence}.`;
}
