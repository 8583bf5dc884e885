/// <reference lib="webworker" />
/** The service worker: keeps the page, the decoder and the newest embeddings for times without a network. */

const worker = self as unknown as ServiceWorkerGlobalScope;

const PAGE = "samserve-page";
const MODEL = "samserve-model"; // decoders, and what is said of them
const EMBEDDINGS = "samserve-embeddings";
const MOST_EMBEDDINGS = 40;
const MOST_PAGE_FILES = 60;

worker.addEventListener("install", (event) => {
  event.waitUntil(keep(["/"]).then(() => worker.skipWaiting()));
});

worker.addEventListener("activate", (event) => {
  event.waitUntil(worker.clients.claim());
});

worker.addEventListener("message", (event) => {
  event.waitUntil(keep(event.data.keep));
});

worker.addEventListener("fetch", (event) => {
  const { request } = event;
  const { origin, pathname } = new URL(request.url);
  if (request.method !== "GET" || origin !== worker.location.origin) return;
  if (pathname.startsWith("/assets/")) event.respondWith(keptFirst(request, PAGE));
  else if (/^\/v1\/models\/[^/]+\/decoder\/[0-9a-f]+$/.test(pathname)) event.respondWith(keptFirst(request, MODEL));
  else if (request.mode === "navigate" && pathname === "/") event.respondWith(networkFirst("/", PAGE, MOST_PAGE_FILES));
  else if (/^\/v1\/images\/[0-9a-f]{64}\/embedding$/.test(pathname)) {
    event.respondWith(networkFirst(request, EMBEDDINGS, MOST_EMBEDDINGS));
  } else if (pathname.startsWith("/v1/models")) event.respondWith(networkFirst(request, MODEL, MOST_PAGE_FILES));
});

/** Files whose addresses hold their hash. */
async function keptFirst(request: Request, name: string): Promise<Response> {
  const kept = await caches.match(request);
  if (kept) return kept;
  const response = await fetch(request);
  if (response.ok) void put(name, request, response.clone(), MOST_PAGE_FILES);
  return response;
}

/** What can change while its address stays. */
async function networkFirst(request: Request | string, name: string, most: number): Promise<Response> {
  try {
    const response = await fetch(request);
    if (response.ok) void put(name, request, response.clone(), most);
    return response;
  } catch (error) {
    const kept = await caches.match(request);
    if (kept) return kept;
    throw error;
  }
}

async function keep(addresses: string[]): Promise<void> {
  for (const address of new Set(addresses)) {
    const response = await fetch(address).catch(() => null);
    if (response?.ok) await put(PAGE, address, response, MOST_PAGE_FILES);
  }
}

/** Put an answer into a cache, and drop the oldest ones over the limit. */
async function put(name: string, request: Request | string, response: Response, most: number): Promise<void> {
  const cache = await caches.open(name);
  await cache.delete(request); // the newest come last
  await cache.put(request, response);
  for (const oldest of (await cache.keys()).slice(0, -most)) await cache.delete(oldest);
}
