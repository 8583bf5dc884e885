import type { BinaryMask, Box, Mask, Polygon, Region, Rle } from "../types.js";

/** Scale a mask's logits to the image's size and cut them at 0, exactly as the server does. */
export function toBinary(_mask: Mask, _width: number, _height: number, _region?: Region): BinaryMask {
  throw new Error("not built yet");
}

/** The same as `encodeRle(toBinary(mask, width, height))`, without the pixels in between. */
export function toRle(_mask: Mask, _width: number, _height: number): Rle {
  throw new Error("not built yet");
}

/** Draw a part of a mask at another resolution, for a screen: columns * rows pixels, 0 or 1. */
export function rasterise(
  _mask: Mask,
  _width: number,
  _height: number,
  _region: Region,
  _columns: number,
  _rows: number,
): BinaryMask {
  throw new Error("not built yet");
}

/** Write a mask as COCO's compressed run lengths. */
export function encodeRle(_mask: BinaryMask): Rle {
  throw new Error("not built yet");
}

/** Read COCO's compressed run lengths. */
export function decodeRle(_rle: Rle): BinaryMask {
  throw new Error("not built yet");
}

/** The outlines of a mask's connected parts, simplified to within a number of pixels. */
export function maskToPolygons(_mask: BinaryMask, _tolerance = 0): Polygon[] {
  throw new Error("not built yet");
}

/** A mask's pixels. */
export function area(_mask: BinaryMask): number {
  throw new Error("not built yet");
}

/** x0, y0, x1, y1 around a mask; x1 and y1 are exclusive; all 0 for an empty mask. */
export function bbox(_mask: BinaryMask): Box {
  throw new Error("not built yet");
}

/** Intersection over union of two masks of one size; 0 if both are empty. */
export function iou(_a: BinaryMask, _b: BinaryMask): number {
  throw new Error("not built yet");
}
