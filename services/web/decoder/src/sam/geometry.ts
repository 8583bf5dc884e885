/** Scales points and sizes from the source image to the model's frame, as the server does. */

import type { Frame } from "../types.js";

export interface Size {
  width: number;
  height: number;
}

/** The size of the scaled image inside the frame, at least one pixel. */
export function fit(size: Size, frame: Frame): Size {
  if (frame.stretch) return { width: frame.side, height: frame.side };
  const scale = frame.side / Math.max(size.width, size.height);
  return {
    width: Math.max(1, Math.floor(size.width * scale + 0.5)),
    height: Math.max(1, Math.floor(size.height * scale + 0.5)),
  };
}

/** The frame that low-res logits cover: that of a stretched model is the logits' own square. */
export function maskFrame(frame: Frame, lowRes: number): Frame {
  return frame.stretch ? { side: lowRes, stretch: true } : frame;
}
