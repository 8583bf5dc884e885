// Answers each line of its input with one decoded click, for browser.py. Arguments: a folder with
// facts.json, decoder.safetensors and embedding.bin, and the folder of @samserve/decoder, built.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

const [folder, decoder] = process.argv.slice(2);
const { KernelEngine } = await import(`${decoder}/dist/kernel/kernel_engine.js`);
const { Kernel } = await import(`${decoder}/dist/kernel/memory.js`);
const { hasRelaxedSimd } = await import(`${decoder}/dist/compile_kernel.js`);
const { readModelFacts } = await import(`${decoder}/dist/sam/model.js`);
const { answer } = await import(`${decoder}/dist/sam/predictor.js`);
const { readSafetensors } = await import(`${decoder}/dist/sam/safetensors.js`);

function bytes(path) {
  const file = readFileSync(path);
  return file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength);
}

const { width, height, ...json } = JSON.parse(readFileSync(`${folder}/facts.json`, "utf8"));
const facts = readModelFacts(json);
const level = hasRelaxedSimd() ? "kernel-relaxed" : "kernel";
const kernel = new Kernel(new WebAssembly.Module(bytes(`${decoder}/wasm/${level}.wasm`)));
const engine = new KernelEngine(kernel, facts, readSafetensors(bytes(`${folder}/decoder.safetensors`)));
const tensors = new Map([["embedding", new Uint16Array(bytes(`${folder}/embedding.bin`))]]);
const size = { width, height };
const embedding = { size, modelVersion: facts.version, tensors };
const image = engine.prepare(embedding);

const prompt = { points: [{ x: width / 2, y: height / 2, label: "foreground" }] };
console.log(level);
for await (const line of createInterface({ input: process.stdin })) {
  if (line === "prepare") engine.prepare(embedding).free();
  else await answer(image, size, facts, prompt, true);
  console.log("done");
}
