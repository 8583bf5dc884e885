/** A mask as the places where it changes: thousands of numbers instead of millions of pixels. */

import type { BinaryMask, Rle } from "../types.js";

/** Pixels are counted column by column, as COCO does: column * height + row. */
export interface Runs {
  width: number;
  height: number;
  /** Rising pixel numbers at which the value changes, first to foreground. */
  changes: ArrayLike<number>;
}

export function runsOf(mask: BinaryMask): Runs {
  const { width, height, data } = mask;
  const changes: number[] = [];
  let before = 0;
  for (let x = 0; x < width; x++)
    for (let y = 0, at = x; y < height; y++, at += width) {
      const value = data[at] ? 1 : 0;
      if (value !== before) changes.push(x * height + y);
      before = value;
    }
  return { width, height, changes };
}

/** Draw the part of a mask that begins at (x0, y0): width * height pixels, row by row. */
export function draw(runs: Runs, x0: number, y0: number, width: number, height: number): BinaryMask {
  // Mark the rows where a column changes; each row is then the one above with its marks flipped.
  const marks = new Uint8Array((height + 1) * width);
  const { changes } = runs;
  for (let i = 0; i < changes.length; i += 2) {
    const start = changes[i]!;
    const end = i + 1 < changes.length ? changes[i + 1]! : runs.width * runs.height;
    const last = Math.min(Math.floor((end - 1) / runs.height), x0 + width - 1);
    for (let column = Math.max(Math.floor(start / runs.height), x0); column <= last; column++) {
      const top = Math.max(start - column * runs.height, 0) - y0;
      const bottom = Math.min(end - column * runs.height, runs.height) - y0;
      const x = column - x0;
      marks[Math.min(Math.max(top, 0), height) * width + x]! ^= 1;
      marks[Math.min(Math.max(bottom, 0), height) * width + x]! ^= 1;
    }
  }
  for (let i = width; i < height * width; i++) marks[i]! ^= marks[i - width]!;
  return { width, height, data: marks.subarray(0, height * width) };
}

/** COCO's counts: the lengths of the runs; the first is background and may be 0. */
export function counts(runs: Runs): number[] {
  const lengths: number[] = [];
  let before = 0;
  for (let i = 0; i < runs.changes.length; i++) {
    lengths.push(runs.changes[i]! - before);
    before = runs.changes[i]!;
  }
  lengths.push(runs.width * runs.height - before);
  return lengths;
}

/**
 * Write run lengths as COCO does: each from the fourth on as its difference to the one two before
 * it, in groups of five bits plus 48, the lowest first.
 */
export function compress(runs: Runs): Rle {
  const lengths = counts(runs);
  let text = "";
  lengths.forEach((length, i) => {
    let rest = i > 2 ? length - lengths[i - 2]! : length;
    let more = true;
    while (more) {
      const group = rest & 31;
      rest >>= 5;
      more = group & 16 ? rest !== -1 : rest !== 0;
      text += String.fromCharCode((more ? group | 32 : group) + 48);
    }
  });
  return { size: [runs.height, runs.width], counts: text };
}

/** Read COCO's compressed run lengths. Throws RangeError if they are damaged or of another size. */
export function decompress(rle: Rle): Runs {
  const [height, width] = rle.size;
  const lengths: number[] = [];
  for (let at = 0; at < rle.counts.length; ) {
    let value = 0;
    let scale = 1;
    for (let more = true; more; at++) {
      const group = rle.counts.charCodeAt(at) - 48;
      if (!(group >= 0 && group < 64)) throw new RangeError("the run lengths are no text of COCO's");
      value += (group & 31) * scale;
      scale *= 32;
      more = (group & 32) !== 0;
      if (!more && group & 16) value -= scale;
    }
    lengths.push(lengths.length > 2 ? value + lengths[lengths.length - 2]! : value);
  }

  const changes: number[] = [];
  let place = 0;
  lengths.forEach((length, i) => {
    if (length < 0) throw new RangeError(`a run length is negative: ${length}`);
    place += length;
    if (i === lengths.length - 1) return;
    // A run of no pixels begins and ends at one place, where nothing changes.
    if (changes[changes.length - 1] === place) changes.pop();
    else changes.push(place);
  });
  if (place !== width * height) throw new RangeError(`the run lengths cover ${place} pixels, not ${width} x ${height}`);
  if (changes[changes.length - 1] === place) changes.pop();
  return { width, height, changes };
}
