/** PNG files: masks of one byte for each pixel, and cut-outs with alpha. */

import { zlibSync } from "fflate";
import type { Rle } from "@samserve/decoder";
import { boxOf, cropRuns, readRuns } from "../document/runs";
import { type Labels, type NamedFile, stemsOf } from "./labels";

/** A black image of the whole size for each object, with its pixels in white. */
export function writeMasks({ classes, images }: Labels): NamedFile[] {
  const stems = stemsOf(images);
  return images.flatMap(({ objects, width, height }, at) =>
    objects.map(({ rle, classId }, index): NamedFile => {
      const { data } = cropRuns(readRuns(rle), [0, 0, width, height]);
      for (let i = 0; i < data.length; i++) data[i] *= 255;
      return { name: `masks/${stems[at]}/${fileName(index, nameOf(classId, classes))}`, data: greyPng(data, width, height) };
    }),
  );
}

/** Each object, cut out of its image. */
export async function writeCutouts({ classes, images }: Labels): Promise<NamedFile[]> {
  const stems = stemsOf(images);
  const files: NamedFile[] = [];
  for (const [at, { objects, file }] of images.entries()) {
    if (objects.length === 0) continue;
    const pixels = await createImageBitmap(await file());
    for (const [index, { rle, classId }] of objects.entries()) {
      const name = `cutouts/${stems[at]}/${fileName(index, nameOf(classId, classes))}`;
      files.push({ name, data: await cutout(pixels, rle) });
    }
    pixels.close();
  }
  return files;
}

async function cutout(image: ImageBitmap, rle: Rle): Promise<Uint8Array> {
  const runs = readRuns(rle);
  const box = boxOf(runs);
  const { data, width, height } = cropRuns(runs, box);
  const canvas = new OffscreenCanvas(Math.max(width, 1), Math.max(height, 1));
  const context = canvas.getContext("2d")!;
  if (width > 0) {
    context.drawImage(image, -box[0], -box[1]);
    const pixels = context.getImageData(0, 0, width, height);
    for (let i = 0; i < data.length; i++) if (!data[i]) pixels.data.fill(0, 4 * i, 4 * i + 4);
    context.putImageData(pixels, 0, 0);
  }
  return new Uint8Array(await (await canvas.convertToBlob({ type: "image/png" })).arrayBuffer());
}

function nameOf(id: number, classes: Labels["classes"]): string {
  return classes.find((each) => each.id === id)?.name ?? "object";
}

function fileName(index: number, name: string): string {
  return `${String(index + 1).padStart(3, "0")}-${name.replace(/[^\p{L}\p{N}-]+/gu, "_")}.png`;
}

/** A PNG of 8-bit grey. */
export function greyPng(data: Uint8Array, width: number, height: number): Uint8Array {
  const rows = new Uint8Array((width + 1) * height); // each begins with its filter, none
  for (let y = 0; y < height; y++) rows.set(data.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header[8] = 8; // bits; the colour type is 0, grey
  const signature = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
  const parts = [signature, chunk("IHDR", header), chunk("IDAT", zlibSync(rows, { level: 6 })), chunk("IEND", new Uint8Array())];
  const png = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    png.set(part, at);
    at += part.length;
  }
  return png;
}

function chunk(type: string, data: Uint8Array): Uint8Array {
  const out = new Uint8Array(data.length + 12);
  const view = new DataView(out.buffer);
  view.setUint32(0, data.length);
  for (let i = 0; i < 4; i++) out[4 + i] = type.charCodeAt(i);
  out.set(data, 8);
  view.setUint32(8 + data.length, crc(out.subarray(4, 8 + data.length)));
  return out;
}

const CRCS = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? 0xedb88320 ^ (byte >>> 1) : byte >>> 1;
  return byte;
});

function crc(data: Uint8Array): number {
  let value = 0xffffffff;
  for (const byte of data) value = CRCS[(value ^ byte) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}
