import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { ImageNotEmbedded, ModelChanged, NotDecodable, SamserveError, ServerError, Superseded, Unreachable } from "../src/errors.js";
import { fromFailure, toFailure } from "../src/failures.js";
import { hasRelaxedSimd } from "../src/compile_kernel.js";
import { Decoder } from "../src/decoder.js";
import type { Request } from "../src/messages.js";
import { embedImage, readBody, request } from "../src/server.js";

/** A worker that answers by a function, one message after the other. */
class FakeWorker {
  static answer: (request: Request) => Promise<unknown>;
  static asked: Request[] = [];
  onmessage: (event: { data: unknown }) => void = () => {};
  onerror: (event: { message: string }) => void = () => {};
  terminated = false;

  async postMessage(message: { id: number; request?: Request }): Promise<void> {
    if (!message.request) return;
    FakeWorker.asked.push(message.request);
    try {
      const reply = await FakeWorker.answer(message.request);
      this.onmessage({ data: { id: message.id, reply } });
    } catch (error) {
      this.onmessage({ data: { id: message.id, failure: toFailure(error) } });
    }
  }

  terminate(): void {
    this.terminated = true;
  }
}

const FACTS = { backend: "wasm", threads: 1, model: "nano", modelVersion: "nano-1", note: "" };
const OPENED = { image: 1, width: 640, height: 480, modelVersion: "nano-1" };

describe("Decoder", () => {
  let release: (() => void)[] = [];

  beforeEach(() => {
    vi.stubGlobal("Worker", FakeWorker);
    vi.stubGlobal("location", { href: "http://gateway/page" });
    FakeWorker.asked = [];
    release = [];
    FakeWorker.answer = async (asked) => {
      if (asked.kind === "load") return FACTS;
      if (asked.kind === "open") return OPENED;
      if (asked.kind === "close") return null;
      await new Promise<void>((resolve) => release.push(resolve));
      return [{ candidate: asked.prompt.points![0]!.x }];
    };
  });
  afterEach(() => vi.unstubAllGlobals());

  const at = (x: number) => ({ points: [{ x, y: 0, label: "foreground" as const }] });

  it("decodes the latest of the prompts that wait; the others are superseded", async () => {
    const image = await (await Decoder.load()).open("abc");
    const first = image.predict(at(1));
    const second = image.predict(at(2));
    const third = image.predict(at(3));
    await expect(second).rejects.toThrow(Superseded);
    release.shift()!();
    expect((await first)[0]!.candidate).toBe(1);
    await vi.waitFor(() => expect(release).toHaveLength(1));
    release.shift()!();
    expect((await third)[0]!.candidate).toBe(3);
    expect(FakeWorker.asked.filter(({ kind }) => kind === "predict")).toHaveLength(2);
  });

  it("withdraws a prompt whose signal aborts before its turn", async () => {
    const image = await (await Decoder.load()).open("abc");
    const first = image.predict(at(1));
    const controller = new AbortController();
    const second = image.predict(at(2), { signal: controller.signal });
    controller.abort();
    await expect(second).rejects.toThrow("aborted");
    release.shift()!();
    await first;
    expect(FakeWorker.asked.filter(({ kind }) => kind === "predict")).toHaveLength(1);
  });

  it("closes an image that is opened although its signal has aborted", async () => {
    const decoder = await Decoder.load();
    const controller = new AbortController();
    const opening = decoder.open("abc", { signal: controller.signal });
    controller.abort();
    await expect(opening).rejects.toThrow("aborted");
    await vi.waitFor(() => expect(FakeWorker.asked.at(-1)).toEqual({ kind: "close", image: 1 }));
  });

  it("that is closed rejects what waits", async () => {
    const decoder = await Decoder.load();
    const image = await decoder.open("abc");
    const waiting = image.predict(at(1));
    decoder.close();
    await expect(waiting).rejects.toThrow("closed");
    await expect(image.predict(at(2))).rejects.toThrow("closed");
  });

  it("that cannot be loaded says why", async () => {
    FakeWorker.answer = async () => {
      throw new NotDecodable("too large; decode on the server");
    };
    await expect(Decoder.load({ model: "huge" })).rejects.toThrow(NotDecodable);
  });
});

describe("failures", () => {
  it.each([
    new ServerError("busy", "OVERLOADED", 429, "", 2),
    new ImageNotEmbedded("send it", "EMBEDDING_NOT_CACHED", 404),
    new ModelChanged("load it again", "MODEL_VERSION_MISMATCH", 409),
    new Unreachable("no answer"),
    new SamserveError("odd", "ODD"),
  ])("cross from the worker to the page as they are: %s", (error) => {
    const back = fromFailure(structuredClone(toFailure(error)));
    expect(back).toBeInstanceOf(error.constructor);
    expect(back).toMatchObject({ message: error.message, code: error.code });
  });

  it("bear the server's own sentence", async () => {
    const problem = { detail: "no cached embedding; send the bytes", code: "EMBEDDING_NOT_CACHED", status: 404 };
    vi.stubGlobal("fetch", async () => new Response(JSON.stringify(problem), { status: 404 }));
    await expect(request("/v1/images", {})).rejects.toThrow(ImageNotEmbedded);
    await expect(request("/v1/images", {})).rejects.toThrow("send the bytes");
    vi.unstubAllGlobals();
  });

  it("of the connection are Unreachable", async () => {
    vi.stubGlobal("fetch", async () => {
      throw new TypeError("failed to fetch");
    });
    await expect(request("/v1/models", {})).rejects.toThrow(Unreachable);
    vi.unstubAllGlobals();
  });
});

describe("the server", () => {
  afterEach(() => vi.unstubAllGlobals());

  it("gets an image's bytes only if it does not know its hash", async () => {
    const bodies: unknown[] = [];
    vi.stubGlobal("fetch", async (_: string, init: RequestInit) => {
      bodies.push(init.body);
      if (typeof init.body === "string") return new Response('{"code":"EMBEDDING_NOT_CACHED"}', { status: 404 });
      return new Response('{"image_id":"abc","width":3,"height":2,"model_version":"v","cache":"MISS"}');
    });
    const file = new Blob(["image"]);
    expect(await embedImage(file)).toMatchObject({ imageId: "abc", width: 3, cache: "MISS" });
    expect(JSON.parse(bodies[0] as string).image_id).toMatch(/^[0-9a-f]{64}$/);
    expect(bodies[1]).toBe(file);
  });

  it("tells how far a download is, and one that breaks off is an error", async () => {
    const seen: number[] = [];
    const whole = await readBody(new Response(new Uint8Array(1000)), "weights", 1000, ({ loaded }) => seen.push(loaded));
    expect(whole.byteLength).toBe(1000);
    expect(seen.at(-1)).toBe(1000);
    await expect(readBody(new Response(new Uint8Array(10)), "weights", 1000, undefined)).rejects.toThrow("10 bytes instead of 1000");
  });
});

it("finds out whether the browser fuses multiplications", () => {
  const kernel = readFileSync(join(import.meta.dirname, "..", "wasm", "kernel-relaxed.wasm"));
  expect(hasRelaxedSimd()).toBe(WebAssembly.validate(kernel));
});

it("errors have names that a bundler leaves as they are", () => {
  const Shortened = class e extends ServerError {};
  expect(new Shortened("busy", "OVERLOADED", 429).name).toBe("ServerError");
  expect(toFailure(new ImageNotEmbedded("send it", "EMBEDDING_NOT_CACHED", 404)).kind).toBe("ImageNotEmbedded");
});
