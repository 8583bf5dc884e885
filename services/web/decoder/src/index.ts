/** @samserve/decoder: answer Segment Anything prompts in the browser. */

export * from "./errors.js";
export type * from "./types.js";
export { Decoder } from "./decoder.js";
export { RemoteDecoder } from "./remote.js";
export { embedImage, findImage, listModels, type EmbeddedImage, type ServerOptions } from "./server.js";
export {
  area,
  bbox,
  decodeRle,
  encodeRle,
  iou,
  maskToPolygons,
  rasterise,
  toBinary,
  toRle,
} from "./masks/index.js";
