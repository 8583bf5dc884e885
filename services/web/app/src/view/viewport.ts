/** The part of the image on the screen. */

import { signal } from "@preact/signals";

/** Screen = image * scale + (x, y), in CSS pixels of the stage. */
export interface View {
  scale: number;
  x: number;
  y: number;
}

export interface Size {
  width: number;
  height: number;
}

export const view = signal<View>({ scale: 1, x: 0, y: 0 });
export const stageSize = signal<Size>({ width: 1, height: 1 });

const MARGIN = 16;
const LARGEST = 40; // screen pixels for each pixel of the image

/** Show the whole image. */
export function fit(image: Size, stage: Size): View {
  const scale = Math.min((stage.width - 2 * MARGIN) / image.width, (stage.height - 2 * MARGIN) / image.height, 8);
  const positive = Math.max(scale, 1e-3);
  return {
    scale: positive,
    x: (stage.width - image.width * positive) / 2,
    y: (stage.height - image.height * positive) / 2,
  };
}

/** Zoom by a factor around a place of the screen, which stays where it is. */
export function zoomed(before: View, factor: number, x: number, y: number, image: Size, stage: Size): View {
  const smallest = Math.min(fit(image, stage).scale, 1) / 2;
  const scale = Math.min(Math.max(before.scale * factor, smallest), LARGEST);
  const real = scale / before.scale;
  return bounded({ scale, x: x - (x - before.x) * real, y: y - (y - before.y) * real }, image, stage);
}

export function panned(before: View, dx: number, dy: number, image: Size, stage: Size): View {
  return bounded({ ...before, x: before.x + dx, y: before.y + dy }, image, stage);
}

/** The place of the image under a place of the screen. */
export function toImage({ scale, x, y }: View, screenX: number, screenY: number): [number, number] {
  return [(screenX - x) / scale, (screenY - y) / scale];
}

/** x0, y0, x1, y1 of the image that are on the screen, in whole pixels; empty boxes have x1 <= x0. */
export function visible(at: View, image: Size, stage: Size): [number, number, number, number] {
  const [x0, y0] = toImage(at, 0, 0);
  const [x1, y1] = toImage(at, stage.width, stage.height);
  return [
    Math.max(Math.floor(x0), 0),
    Math.max(Math.floor(y0), 0),
    Math.min(Math.ceil(x1), image.width),
    Math.min(Math.ceil(y1), image.height),
  ];
}

/** Keep a part of the image on the screen. */
function bounded(at: View, image: Size, stage: Size): View {
  const kept = 64;
  return {
    scale: at.scale,
    x: Math.min(Math.max(at.x, kept - image.width * at.scale), stage.width - kept),
    y: Math.min(Math.max(at.y, kept - image.height * at.scale), stage.height - kept),
  };
}
