/** Masks as pixels, run lengths and polygons. Pure. */

import { fit } from "../sam/geometry.js";
import type { BinaryMask, Box, Mask, Region, Rle } from "../types.js";
import { outline, scaleToFrame } from "./outline.js";
import { compress, decompress, draw, runsOf } from "./runs.js";

export { maskToPolygons } from "./polygons.js";

/** Scale a mask's logits to the image's size and cut them at 0, as the server does. */
export function toBinary(
  mask: Mask,
  width: number,
  height: number,
  region: Region = { x: 0, y: 0, width, height },
): BinaryMask {
  return draw(outline(mask, width, height), region.x, region.y, region.width, region.height);
}

/** The same as `encodeRle(toBinary(mask, width, height))`, without the pixels in between. */
export function toRle(mask: Mask, width: number, height: number): Rle {
  return compress(outline(mask, width, height));
}

/**
 * Draw a part of a mask at another resolution, for a screen: columns * rows pixels, 0 or 1.
 *
 * @param width - of the image
 * @param height - of the image
 * @param region - the part, in pixels of the image; it may extend beyond the image
 */
export function rasterise(
  mask: Mask,
  width: number,
  height: number,
  region: Region,
  columns: number,
  rows: number,
): BinaryMask {
  const inner = fit({ width, height }, mask.frame);
  const framed = scaleToFrame(mask, width, height);
  const data = new Uint8Array(columns * rows);

  // Where each column and row lies in the part of the frame; null outside of it.
  const place = (i: number, start: number, step: number, size: number, innerSize: number, first: number, count: number) => {
    const pixel = start + (i + 0.5) * step; // from the image's edge
    if (pixel < 0 || pixel >= size) return null;
    const at = Math.min(Math.max((pixel * innerSize) / size - 0.5, 0), innerSize - 1) - first;
    if (at < 0 || at > count - 1) return null;
    const before = Math.min(Math.floor(at), Math.max(count - 2, 0));
    return { before, share: at - before };
  };
  const across = Array.from({ length: columns }, (_, i) =>
    place(i, region.x, region.width / columns, width, inner.width, framed.column, framed.columns),
  );
  const left = across.findIndex((each) => each);
  if (left < 0) return { width: columns, height: rows, data };
  const right = across.findLastIndex((each) => each) + 1;

  const { logits } = framed;
  const stride = framed.columns;
  for (let y = 0; y < rows; y++) {
    const down = place(y, region.y, region.height / rows, height, inner.height, framed.row, framed.rows);
    if (!down) continue;
    const upper = down.before * stride;
    const lower = Math.min(down.before + 1, framed.rows - 1) * stride;
    for (let x = left; x < right; x++) {
      const { before, share } = across[x]!;
      const top = logits[upper + before]! * (1 - share) + logits[upper + before + 1]! * share;
      const bottom = logits[lower + before]! * (1 - share) + logits[lower + before + 1]! * share;
      if (top * (1 - down.share) + bottom * down.share > 0) data[y * columns + x] = 1;
    }
  }
  return { width: columns, height: rows, data };
}

/** Write a mask as COCO's compressed run lengths. */
export function encodeRle(mask: BinaryMask): Rle {
  return compress(runsOf(mask));
}

/** Read COCO's compressed run lengths. Throws RangeError if they are damaged. */
export function decodeRle(rle: Rle): BinaryMask {
  const runs = decompress(rle);
  return draw(runs, 0, 0, runs.width, runs.height);
}

/** A mask's pixels. */
export function area(mask: BinaryMask): number {
  let sum = 0;
  for (const value of mask.data) if (value) sum++;
  return sum;
}

/** x0, y0, x1, y1 around a mask; x1 and y1 are exclusive; all 0 for an empty mask. */
export function bbox(mask: BinaryMask): Box {
  const { width, height, data } = mask;
  let [x0, y0, x1, y1] = [width, height, 0, 0];
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      if (data[y * width + x]) {
        x0 = Math.min(x0, x);
        x1 = Math.max(x1, x + 1);
        y0 = Math.min(y0, y);
        y1 = y + 1;
      }
  return x1 ? [x0, y0, x1, y1] : [0, 0, 0, 0];
}

/** Intersection over union of two masks of one size; 0 if both are empty. */
export function iou(a: BinaryMask, b: BinaryMask): number {
  let [both, either] = [0, 0];
  for (let i = 0; i < a.data.length; i++) {
    if (a.data[i] && b.data[i]) both++;
    if (a.data[i] || b.data[i]) either++;
  }
  return either ? both / either : 0;
}
