/** Decodes image files beside the page. */

import { type Decoded, OVERVIEW_SIDE, TILE, WHOLE_PIXELS } from "./levels";

const THUMBNAIL_SIDE = 176;

self.onmessage = async ({ data: file }: MessageEvent<Blob>) => {
  try {
    const decoded = await decode(file);
    const moved = [decoded.overview, ...(decoded.whole ? [decoded.whole] : [])];
    self.postMessage(decoded, { transfer: moved });
  } catch {
    self.postMessage(null);
  }
};

async function decode(file: Blob): Promise<Decoded> {
  const whole = await createImageBitmap(file); // upright: EXIF's orientation is applied
  const { width, height } = whole;
  const overview = await scaled(whole, OVERVIEW_SIDE);
  const small = draw(overview, 0, 0, ...fitted(width, height, THUMBNAIL_SIDE), overview.width, overview.height);
  const thumbnail = await small.convertToBlob({ type: "image/jpeg", quality: 0.8 });
  if (width * height <= WHOLE_PIXELS) return { width, height, overview, whole, tiles: null, thumbnail };

  const tiles: Blob[] = [];
  for (let y = 0; y < height; y += TILE) {
    for (let x = 0; x < width; x += TILE) {
      const [w, h] = [Math.min(TILE, width - x), Math.min(TILE, height - y)];
      tiles.push(await draw(whole, x, y, w, h, w, h).convertToBlob({ type: "image/jpeg", quality: 0.95 }));
    }
  }
  whole.close();
  return { width, height, overview, whole: null, tiles, thumbnail };
}

async function scaled(image: ImageBitmap, side: number): Promise<ImageBitmap> {
  const [width, height] = fitted(image.width, image.height, side);
  return createImageBitmap(image, { resizeWidth: width, resizeHeight: height, resizeQuality: "medium" });
}

function fitted(width: number, height: number, side: number): [number, number] {
  const scale = Math.min(side / Math.max(width, height), 1);
  return [Math.max(Math.round(width * scale), 1), Math.max(Math.round(height * scale), 1)];
}

/** Draw a part of an image, [fromWidth, fromHeight] at x, y, onto a new canvas. */
function draw(
  image: ImageBitmap,
  x: number,
  y: number,
  width: number,
  height: number,
  fromWidth: number,
  fromHeight: number,
): OffscreenCanvas {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d")!;
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff"; // JPEG has no alpha
  context.fillRect(0, 0, width, height);
  context.drawImage(image, x, y, fromWidth, fromHeight, 0, 0, width, height);
  return canvas;
}
