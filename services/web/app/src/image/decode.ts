/** Reading image files for the screen. */

import type { Decoded } from "./levels";

/** The browser cannot show a file. */
export class Unreadable extends Error {}

/** Decode a file in a worker, which ends with it: the memory of large images goes with the worker. */
export function decodeImage(file: Blob, name: string, signal: AbortSignal): Promise<Decoded> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL("./decode.worker.ts", import.meta.url), { type: "module" });
    const end = () => {
      worker.terminate();
      signal.removeEventListener("abort", leave);
    };
    const leave = () => {
      end();
      reject(new DOMException("left", "AbortError"));
    };
    signal.addEventListener("abort", leave);
    worker.onmessage = ({ data }: MessageEvent<Decoded | null>) => {
      end();
      if (data) resolve(data);
      else reject(new Unreadable(unreadable(name)));
    };
    worker.onerror = () => {
      end();
      reject(new Unreadable(unreadable(name)));
    };
    worker.postMessage(file);
  });
}

function unreadable(name: string): string {
  return `“${name}” is damaged, or no image that this browser can show; use JPEG, PNG, WebP, BMP or GIF.`;
}
