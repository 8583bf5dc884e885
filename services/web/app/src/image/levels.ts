/** An image at several resolutions, so that a large one does not fill the tab's memory. */

/** Larger images are kept as compressed tiles beside their overview. */
export const WHOLE_PIXELS = 16_000_000;
export const OVERVIEW_SIDE = 2048;
export const TILE = 1024;

/** What the worker makes of a file. */
export interface Decoded {
  width: number;
  height: number;
  overview: ImageBitmap;
  /** All pixels, unless there are tiles. */
  whole: ImageBitmap | null;
  /** Row by row. */
  tiles: Blob[] | null;
  thumbnail: Blob;
}

const KEPT_TILES = 40; // of 4 MiB each

/** Draws an image's pixels at any scale. */
export class Levels {
  readonly width: number;
  readonly height: number;
  private readonly tiles = new Map<number, ImageBitmap | "loading">();
  private closed = false;

  /**
   * @param decoded what the worker made; it belongs to this object from now on.
   * @param onLoad called when a tile has come that was missing.
   */
  constructor(
    private readonly decoded: Decoded,
    private readonly onLoad: () => void,
  ) {
    this.width = decoded.width;
    this.height = decoded.height;
  }

  /** Draw in the image's own coordinates; `scale` is screen pixels for each of its pixels. */
  draw(context: CanvasRenderingContext2D, scale: number, [x0, y0, x1, y1]: readonly number[]): void {
    const { overview, whole, tiles } = this.decoded;
    context.imageSmoothingEnabled = scale < 4;
    context.imageSmoothingQuality = "medium";
    const sharp = scale > overview.width / this.width;
    if (whole && sharp) {
      context.drawImage(whole, 0, 0);
      return;
    }
    context.drawImage(overview, 0, 0, this.width, this.height);
    if (!tiles || !sharp) return;

    const across = Math.ceil(this.width / TILE);
    const down = Math.ceil(this.height / TILE);
    for (let row = Math.max(Math.floor(y0 / TILE), 0); row < Math.min(y1 / TILE, down); row++) {
      for (let column = Math.max(Math.floor(x0 / TILE), 0); column < Math.min(x1 / TILE, across); column++) {
        const tile = this.tile(row * across + column);
        if (tile) context.drawImage(tile, column * TILE, row * TILE);
      }
    }
  }

  close(): void {
    this.closed = true;
    this.decoded.overview.close();
    this.decoded.whole?.close();
    for (const tile of this.tiles.values()) if (tile !== "loading") tile.close();
    this.tiles.clear();
  }

  private tile(index: number): ImageBitmap | null {
    const found = this.tiles.get(index);
    if (found === "loading") return null;
    if (found) {
      this.tiles.delete(index); // the newest come last
      this.tiles.set(index, found);
      return found;
    }
    this.tiles.set(index, "loading");
    void createImageBitmap(this.decoded.tiles![index]).then((tile) => {
      if (this.closed) {
        tile.close();
        return;
      }
      this.tiles.set(index, tile);
      this.evict();
      this.onLoad();
    });
    return null;
  }

  private evict(): void {
    for (const [index, tile] of this.tiles) {
      if (this.tiles.size <= KEPT_TILES) return;
      if (tile === "loading") continue;
      tile.close();
      this.tiles.delete(index);
    }
  }
}
