/** A decoder's mask on the screen: coloured, with a line around it. */

import { type Mask, rasterise, type Region } from "@samserve/decoder";
import type { Size } from "./viewport";

const FILL = 0.36; // opacity
const LINE = 0.95;

/** Pixels to draw, and where. */
export interface Tinted {
  canvas: OffscreenCanvas;
  region: Region;
}

let last: { key: unknown[]; tinted: Tinted | null } | null = null;

/**
 * Draw the part of a mask that is on the screen.
 *
 * @param visible x0, y0, x1, y1 of the image.
 * @param scale pixels of the screen for each pixel of the image.
 * @returns null if nothing of the mask is on the screen.
 */
export function tint(mask: Mask, image: Size, visible: readonly number[], scale: number, color: string): Tinted | null {
  const key = [mask, ...visible, scale, color];
  if (last?.key.every((each, index) => each === key[index])) return last.tinted;
  const tinted = tintNow(mask, image, visible, scale, color);
  last = { key, tinted };
  return tinted;
}

function tintNow(mask: Mask, image: Size, visible: readonly number[], scale: number, color: string): Tinted | null {
  const region = clip(extent(mask, image), visible);
  if (region.width <= 0 || region.height <= 0) return null;
  const columns = Math.max(Math.round(region.width * scale), 1);
  const rows = Math.max(Math.round(region.height * scale), 1);
  const { data } = rasterise(mask, image.width, image.height, region, columns, rows);
  const canvas = new OffscreenCanvas(columns, rows);
  canvas.getContext("2d")!.putImageData(paint(data, columns, rows, color), 0, 0);
  return { canvas, region };
}

function paint(on: Uint8Array, columns: number, rows: number, color: string): ImageData {
  const pixels = new ImageData(columns, rows);
  const words = new Uint32Array(pixels.data.buffer);
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  const rgb = (blue << 16) | (green << 8) | red;
  const [fill, line] = [FILL, LINE].map((opacity) => ((Math.round(opacity * 255) << 24) | rgb) >>> 0);
  for (let y = 0, at = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++, at++) {
      if (!on[at]) continue;
      const inside =
        (x === 0 || on[at - 1]) &&
        (x === columns - 1 || on[at + 1]) &&
        (y === 0 || on[at - columns]) &&
        (y === rows - 1 || on[at + columns]);
      words[at] = inside ? fill : line;
    }
  }
  return pixels;
}

/** x0, y0, x1, y1 of the image beyond which the mask has no pixels. */
function extent({ logits, side, frame }: Mask, { width, height }: Size): number[] {
  let [left, top, right, bottom] = [side, side, -1, -1];
  for (let y = 0, at = 0; y < side; y++) {
    for (let x = 0; x < side; x++, at++) {
      if (logits[at] <= 0) continue;
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      bottom = y;
    }
  }
  const longest = Math.max(width, height);
  const acrossCell = (frame.stretch ? width : longest) / side;
  const downCell = (frame.stretch ? height : longest) / side;
  // A cell's neighbours reach into it.
  return [(left - 1) * acrossCell, (top - 1) * downCell, (right + 2) * acrossCell, (bottom + 2) * downCell];
}

function clip(box: readonly number[], visible: readonly number[]): Region {
  const x = Math.max(Math.floor(box[0]), visible[0]);
  const y = Math.max(Math.floor(box[1]), visible[1]);
  const right = Math.min(Math.ceil(box[2]), visible[2]);
  const bottom = Math.min(Math.ceil(box[3]), visible[3]);
  return { x, y, width: right - x, height: bottom - y };
}
