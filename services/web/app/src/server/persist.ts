/** Trying again while the server is away. */

import { ServerError } from "@samserve/decoder";
import { isPassing } from "./failure";

const LONGEST_WAIT = 10; // seconds

/** Seconds before an attempt, after so many that failed in a row. */
export function waitBefore(failures: number): number {
  return Math.min(2 ** (failures - 1), LONGEST_WAIT);
}

export interface PersistOptions {
  signal: AbortSignal;
  /** Called before each wait. */
  onWait: (error: unknown, seconds: number) => void;
}

/** Do something until it succeeds, fails for good, or is given up. */
export async function persist<T>(action: () => Promise<T>, { signal, onWait }: PersistOptions): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await action();
    } catch (error) {
      if (!isPassing(error) || signal.aborted) throw error;
      const asked = error instanceof ServerError ? error.retryAfter : null;
      const seconds = Math.min(Math.max(asked ?? waitBefore(attempt + 1), 1), LONGEST_WAIT);
      onWait(error, seconds);
      await pause(seconds, signal);
    }
  }
}

/** Wait. The network's return ends it early, and the signal with its reason. */
export function pause(seconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const end = () => {
      clearTimeout(timer);
      removeEventListener("online", end);
      signal.removeEventListener("abort", end);
      if (signal.aborted) reject(signal.reason);
      else resolve();
    };
    const timer = setTimeout(end, seconds * 1000);
    addEventListener("online", end);
    signal.addEventListener("abort", end);
  });
}
