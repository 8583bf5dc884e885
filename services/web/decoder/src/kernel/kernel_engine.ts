/**
 * Computes SAM's and SAM 2's mask decoder with samserve's own kernel, compiled to WebAssembly.
 *
 * The server's samserve/decoder/sam/kernel_decoder.py does the same and explains it. Shapes: n
 * tokens; T = 8 n rows; H = 17 rows of a mask prompt, or 0; N cells in tiles of 64.
 */

import type { Embedding } from "../sam/embedding.js";
import type { DecodeRequest, Decoded, Engine, Prepared } from "../sam/engine.js";
import type { ModelFacts } from "../sam/model.js";
import type { Tensor } from "../sam/safetensors.js";
import {
  firstGain,
  imageProjections,
  putWeights,
  varianceTerms,
  type Projection,
} from "./folding.js";
import { Matrix } from "./matrix.js";
import { Kernel } from "./memory.js";
import { MaskEncoder, PointEncoder, TILE } from "./prompt_encoder.js";
import { integer, pointer, struct } from "./structs.js";
import { Tensors } from "./tensors.js";
import { HEADS } from "./weights.js";

const CELL_PIXELS = 16; // side of a cell in the frame
const VALUE_CHANNELS = 16; // of a head
const MOST_TOKENS = 73; // as the kernel is compiled
const MOST_MASKS = 4;

export class KernelEngine implements Engine {
  readonly mostPoints: number;
  readonly side: number; // in cells
  readonly cells: number;
  readonly points: PointEncoder;
  readonly masks: MaskEncoder;
  readonly projections: Projection[];
  readonly projectionWeights: number[]; // addresses
  readonly terms: { first: number; second: number; cross: number }; // addresses
  readonly gains: Float32Array;
  readonly gain: number; // address of the same
  readonly noMask: number; // address
  readonly fixedTokens: Float32Array;
  readonly channels: number;
  readonly place: number; // address, [tiles, 256, 64]
  readonly weights: number; // address
  readonly workspace: Workspace;

  constructor(
    readonly kernel: Kernel,
    readonly facts: ModelFacts,
    named: Map<string, Tensor>,
  ) {
    const tensors = new Tensors(named);
    this.side = facts.lowRes / 4;
    this.cells = this.side ** 2;
    this.points = new PointEncoder(tensors, CELL_PIXELS * this.side);
    this.masks = new MaskEncoder(tensors);
    this.channels = this.masks.noMask.length;

    const fixed = facts.tokenWeights.map((name) => tensors.vector(`mask_decoder.${name}.weight`));
    this.fixedTokens = new Float32Array(fixed.reduce((sum, rows) => sum + rows.length, 0));
    fixed.reduce((at, rows) => (this.fixedTokens.set(rows, at), at + rows.length), 0);
    this.mostPoints = MOST_TOKENS - this.fixedTokens.length / this.channels;

    this.gains = firstGain(tensors);
    this.gain = kernel.put(this.gains);
    this.noMask = kernel.put(this.masks.noMask);
    const { first, second, cross } = varianceTerms(tensors);
    this.terms = { first: kernel.put(first), second: kernel.put(second), cross: kernel.put(cross) };
    this.projections = imageProjections(tensors);
    this.projectionWeights = this.projections.map(({ weight }) => kernel.put(weight.data));
    this.place = kernel.put(this.points.grid(this.side));
    this.weights = putWeights(kernel, tensors, this.masks, this.place, this.cells, facts.normEpsilon);
    this.workspace = new Workspace(kernel, this.cells);
  }

  /** Throws RangeError if there is no memory for the image. */
  prepare(embedding: Embedding): KernelImage {
    const image = new KernelImage(this);
    try {
      image.prepare(embedding);
    } catch (error) {
      image.free();
      throw error;
    }
    return image;
  }
}

/** Memory that one prompt after the other uses; it grows with the longest prompt so far. */
class Workspace {
  readonly scratch: number;
  readonly r1: number;
  readonly r2: number;
  readonly ious: number;
  readonly logits: number;
  s1 = 0;
  s2 = 0;
  sums = 0;
  private rows = 0;

  constructor(
    private readonly kernel: Kernel,
    private readonly cells: number,
  ) {
    this.scratch = kernel.reserve(Number(kernel.exports.tokens_bytes()));
    this.r1 = kernel.reserve(4 * cells);
    this.r2 = kernel.reserve(4 * cells);
    this.ious = kernel.reserve(4 * TILE);
    this.logits = kernel.reserve(4 * MOST_MASKS * 16 * cells);
  }

  /** Make room for T rows and H rows of a mask prompt. */
  fit(rows: number, dense: number): void {
    if (rows <= this.rows) return;
    for (const at of [this.s1, this.s2, this.sums]) this.kernel.free(at);
    this.rows = this.s1 = this.s2 = this.sums = 0; // as long as there may be no memory
    this.s1 = this.kernel.reserve(4 * rows * this.cells);
    this.s2 = this.kernel.reserve(4 * rows * this.cells);
    const width = 2 + VALUE_CHANNELS + padded(rows + dense) + padded(rows);
    this.sums = this.kernel.reserve(4 * rows * width);
    this.rows = rows;
  }
}

class KernelImage implements Prepared {
  private x = 0; // address, [tiles, 256, 64]
  private readonly parts: number[] = []; // addresses, in the order of the projections
  private readonly scales: number[] = [];
  private fine: number[] = [];
  private squares: number[] = []; // addresses: square0, square1, cross1
  private readonly owned = new Set<number>();

  constructor(private readonly engine: KernelEngine) {}

  prepare(embedding: Embedding): void {
    const { kernel, cells, channels } = this.engine;
    const { engine } = this;

    // X: the image as SAM's transformer gets it from a prompt without a mask.
    const coarse = this.own(kernel.put(embedding.tensors.get("embedding")!));
    const placed = this.own(kernel.reserve(4 * channels * cells));
    this.x = this.own(kernel.reserve(4 * channels * cells));
    kernel.exports.lay_out(coarse, engine.noMask, engine.place, this.x, placed, BigInt(cells));
    this.disown(coarse);

    // The products with X, as 16-bit integers.
    const projected = this.own(kernel.reserve(4 * channels * cells));
    engine.projections.forEach(({ weight, placed: withPlace, cellsFirst }, index) => {
      const source = withPlace ? placed : this.x;
      kernel.project(engine.projectionWeights[index]!, source, projected, weight.rows, channels, cells);
      const part = this.own(kernel.reserve(2 * weight.rows * cells));
      const scale = this.own(kernel.reserve(4 * weight.rows));
      kernel.exports.quantise(projected, BigInt(weight.rows), BigInt(cells), cellsFirst ? 1 : 0, part, scale);
      this.parts.push(part);
      this.scales.push(scale);
    });
    this.disown(projected);
    this.disown(placed);

    this.fine = ["fine_1", "fine_0"].map((name) => {
      const map = embedding.tensors.get(name);
      return map ? this.own(kernel.put(groupByCell(map, engine.facts.embedding[name]!, engine.side))) : 0;
    });

    this.squares = [0, 1, 2].map(() => this.own(kernel.reserve(4 * cells)));
    const [square0, square1, cross1] = this.squares as [number, number, number];
    const { first, second, cross } = engine.terms;
    kernel.exports.squares(this.x, engine.gain, first, second, cross, square0, square1, cross1, BigInt(cells));
  }

  decode(request: DecodeRequest): Decoded {
    const { kernel, cells, channels, fixedTokens, workspace, masks } = this.engine;
    const own = this.engine.points.encode(request.points, request.labels);
    const tokens = new Float32Array(fixedTokens.length + own.length);
    tokens.set(fixedTokens);
    tokens.set(own, fixedTokens.length);
    const count = tokens.length / channels;

    const dense = request.maskInput ? masks.encode(request.maskInput, 4 * this.engine.side) : new Float32Array(0);
    const denseCount = dense.length / cells;
    workspace.fit(HEADS * count, masks.rows);

    const used: number[] = [];
    const put = (numbers: Float32Array) => {
      const at = kernel.put(numbers);
      used.push(at);
      return at;
    };
    try {
      const denseAt = put(dense);
      let [square0, square1] = this.squares as [number, number];
      if (denseCount) [square0, square1] = this.squaresWithMask(dense).map(put) as [number, number];

      const wanted = Array.from({ length: MOST_MASKS }, (_, i) => integer(request.wanted[i] ?? 0));
      const job = kernel.putStruct(
        struct(
          integer(cells),
          integer(count),
          integer(denseCount),
          integer(request.wanted.length),
          ...wanted,
          pointer(this.engine.weights),
          pointer(put(tokens)),
          ...this.parts.map(pointer),
          ...this.scales.map(pointer),
          ...this.fine.map(pointer),
          ...[square0, square1, this.squares[2]!].map(pointer),
          pointer(denseAt),
          ...[workspace.s1, workspace.s2, workspace.r1, workspace.r2].map(pointer),
          ...[workspace.logits, workspace.ious, workspace.scratch].map(pointer),
        ),
      );
      used.push(job);
      kernel.exports.decode(job, workspace.sums);
    } finally {
      used.forEach((at) => kernel.free(at));
    }

    const pixels = 16 * cells;
    const logits = request.wanted.map((_, i) => kernel.floats(workspace.logits + 4 * i * pixels, pixels).slice());
    const ious = kernel.floats(workspace.ious, MOST_MASKS).slice();
    return { logits, ious: this.engine.facts.sigmoidIou ? ious.map((x) => 1 / (1 + Math.exp(-x))) : ious };
  }

  free(): void {
    for (const at of this.owned) this.disown(at);
  }

  /** The cells' squares with a mask prompt's part; see `_squares_with_mask` on the server. */
  private squaresWithMask(dense: Float32Array): [Float32Array, Float32Array] {
    const { kernel, cells, channels, masks, gains } = this.engine;
    const m0 = masks.matrix.centred;
    const m1 = m0.scaled(gains).centred;
    const second = m1.scaled(gains).centred;
    const rows = m0.rows;

    // M X for both, in one product over the cells: [tiles, 2 H, 64].
    const matrices = new Float32Array(2 * rows * channels);
    matrices.set(m0.data);
    matrices.set(second.data, rows * channels);
    const from = kernel.put(matrices);
    const to = kernel.reserve(4 * 2 * rows * cells);
    kernel.project(from, this.x, to, 2 * rows, channels, cells);
    const products = kernel.floats(to, 2 * rows * cells);

    const grown = (square: number, gram: Matrix, offset: number): Float32Array =>
      kernel.floats(square, cells).map((value, cell) => {
        const tile = Math.floor(cell / TILE);
        const j = cell % TILE;
        const at = (r: number) => (tile * rows + r) * TILE + j;
        let sum = value;
        for (let r = 0; r < rows; r++) {
          let mixed = 2 * products[(tile * 2 * rows + offset + r) * TILE + j]!;
          for (let k = 0; k < rows; k++) mixed += gram.at(r, k) * dense[at(k)]!;
          sum += dense[at(r)]! * mixed;
        }
        return sum;
      });
    const result: [Float32Array, Float32Array] = [
      grown(this.squares[0]!, m0.timesTransposed(m0), 0),
      grown(this.squares[1]!, m1.timesTransposed(m1), rows),
    ];
    kernel.free(from);
    kernel.free(to);
    return result;
  }

  private own(at: number): number {
    this.owned.add(at);
    return at;
  }

  private disown(at: number): void {
    this.owned.delete(at);
    this.engine.kernel.free(at);
  }
}

/**
 * Arrange a finer map by the cells of the embedding: [tiles, f f C, 64].
 *
 * The pixels of a cell come in the order in which upscalings by two make them.
 */
function groupByCell(map: Uint16Array, shape: number[], side: number): Uint16Array {
  const [channels, length] = [shape[0]!, shape[1]!];
  const finer = length / side;
  const halvings = Math.log2(finer);
  const rows = finer * finer * channels;
  const out = new Uint16Array(map.length);

  for (let pixel = 0; pixel < finer * finer; pixel++) {
    // Two bits for each halving, the coarsest first: row, column.
    let [dy, dx] = [0, 0];
    for (let step = 0; step < halvings; step++) {
      const bits = pixel >> (2 * (halvings - 1 - step));
      dy = 2 * dy + ((bits >> 1) & 1);
      dx = 2 * dx + (bits & 1);
    }
    for (let c = 0; c < channels; c++)
      for (let cell = 0; cell < side * side; cell++) {
        const y = Math.floor(cell / side) * finer + dy;
        const x = (cell % side) * finer + dx;
        const to = (Math.floor(cell / TILE) * rows + pixel * channels + c) * TILE + (cell % TILE);
        out[to] = map[(c * length + y) * length + x]!;
      }
  }
  return out;
}

function padded(rows: number): number {
  return Math.ceil(rows / TILE) * TILE;
}
