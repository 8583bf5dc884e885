/** The service worker, which keeps the page and its embeddings for times without a network. */

const LONGEST_WAIT = 1500; // milliseconds

/** Resolves once requests pass through the service worker, or it is clear that they will not. */
export const controlled: Promise<void> = start();

async function start(): Promise<void> {
  const { serviceWorker } = navigator;
  if (!serviceWorker || !import.meta.env.PROD) return; // no TLS, or under development
  try {
    const taken = new Promise<void>((resolve) => {
      if (serviceWorker.controller) resolve();
      else serviceWorker.addEventListener("controllerchange", () => resolve(), { once: true });
    });
    const late = new Promise<void>((resolve) => setTimeout(resolve, LONGEST_WAIT));
    const registered = serviceWorker.register("/sw.js").then((registration) => (registration ? taken : undefined));
    registered.catch(() => {}); // refused after the wait
    await Promise.race([registered, late]);
  } catch {
    // Private windows refuse it; the page works, but only with a network.
  }
}

/** Keep what the page has loaded until now, so that it can be loaded without a network. */
export async function keepLoaded(): Promise<void> {
  await controlled;
  const controller = navigator.serviceWorker?.controller;
  if (!controller) return;
  const names = performance.getEntriesByType("resource").map(({ name }) => name);
  controller.postMessage({ keep: ["/", ...names.filter((name) => new URL(name).pathname.startsWith("/assets/"))] });
}
