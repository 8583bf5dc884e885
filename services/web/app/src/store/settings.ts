/** Choices of the person that belong to this browser, not to a project. */

import { effect, signal } from "@preact/signals";

export type Place = "device" | "server";
export type Theme = "system" | "light" | "dark";

function stored<T extends string>(name: string, fallback: T, allowed: readonly T[] | null) {
  const key = `samserve.${name}`;
  let value = fallback;
  try {
    const found = localStorage.getItem(key) as T | null;
    if (found !== null && (allowed === null || allowed.includes(found))) value = found;
  } catch {
    // The browser keeps nothing; the choice lasts until the page is closed.
  }
  const choice = signal<T>(value);
  effect(() => {
    try {
      localStorage.setItem(key, choice.value);
    } catch {
      // As above.
    }
  });
  return choice;
}

/** Where masks are decoded. */
export const place = stored<Place>("place", "device", ["device", "server"]);
/** Name of the model; empty: the server's default. */
export const model = stored<string>("model", "", null);
export const theme = stored<Theme>("theme", "system", ["system", "light", "dark"]);

effect(() => {
  const { dataset } = document.documentElement;
  if (theme.value === "system") delete dataset.theme;
  else dataset.theme = theme.value;
});
