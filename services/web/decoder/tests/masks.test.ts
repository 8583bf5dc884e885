import { describe, expect, it } from "vitest";
import { area, bbox, decodeRle, encodeRle, iou, maskToPolygons, rasterise, toBinary, toRle } from "../src/masks/index.js";
import type { BinaryMask, Mask } from "../src/types.js";

/** A mask from rows of letters; # is the object. */
function drawn(...rows: string[]): BinaryMask {
  const data = Uint8Array.from(rows.join(""), (letter) => (letter === "#" ? 1 : 0));
  return { width: rows[0]!.length, height: rows.length, data };
}

/** A disk of logits in a frame of 1024 pixels. */
function disk(x: number, y: number, radius: number): Mask {
  const logits = Float32Array.from({ length: 256 * 256 }, (_, i) => radius - Math.hypot((i % 256) - x, (i >> 8) - y));
  return { candidate: 0, logits, side: 256, frame: { side: 1024, stretch: false }, predictedIou: 1, stabilityScore: 1 };
}

describe("run lengths", () => {
  it("are COCO's: column by column, the background first", () => {
    expect(encodeRle(drawn("..", ".#", "##"))).toEqual({ size: [3, 2], counts: "2111" });
    expect(encodeRle(drawn("#.", "#.")).counts).toBe("022");
  });

  it.each([
    [drawn("....", "....")],
    [drawn("####", "####")],
    [drawn("#..#", ".##.", "#..#")],
  ])("come back as the same mask", (mask) => {
    expect(decodeRle(encodeRle(mask))).toEqual(mask);
  });

  it("of another size are refused", () => {
    expect(() => decodeRle({ size: [3, 3], counts: "2111" })).toThrow(RangeError);
    expect(() => decodeRle({ size: [3, 2], counts: "~~" })).toThrow(RangeError);
  });
});

describe("numbers of a mask", () => {
  const mask = drawn("....", ".##.", ".#..");

  it("are its area, its box and its overlap with another", () => {
    expect(area(mask)).toBe(3);
    expect(bbox(mask)).toEqual([1, 1, 3, 3]);
    expect(bbox(drawn("..", ".."))).toEqual([0, 0, 0, 0]);
    expect(iou(mask, drawn("....", ".#..", ".#.#"))).toBe(0.5);
    expect(iou(drawn("."), drawn("."))).toBe(0);
  });
});

describe("polygons", () => {
  it("lie on the edges of pixels, exteriors counter-clockwise", () => {
    const [polygon] = maskToPolygons(drawn("...", ".#."));
    expect(polygon).toEqual({ exterior: [[1, 1], [1, 2], [2, 2], [2, 1]], holes: [] });
  });

  it("have holes, clockwise", () => {
    const [polygon, ...others] = maskToPolygons(drawn("###", "#.#", "###"));
    expect(others).toEqual([]);
    expect(polygon!.exterior).toHaveLength(4);
    expect(polygon!.holes).toEqual([[[2, 1], [2, 2], [1, 2], [1, 1]]]);
  });

  it("separate pixels that touch at a corner only", () => {
    expect(maskToPolygons(drawn("#.", ".#"))).toHaveLength(2);
  });

  it("give each hole to the part around it", () => {
    const mask = drawn("#####....", "#...#.###", "#.#.#.#.#", "#...#.###", "#####....");
    const holes = maskToPolygons(mask).map(({ holes }) => holes.length);
    expect(holes.sort()).toEqual([0, 1, 1]);
  });

  it("have fewer corners with a tolerance", () => {
    const mask = toBinary(disk(60, 50, 30), 512, 512);
    const [exact] = maskToPolygons(mask);
    const [simple] = maskToPolygons(mask, 1);
    expect(simple!.exterior.length).toBeLessThan(exact!.exterior.length / 3);
  });
});

describe("logits", () => {
  it.each([[512, 384], [300, 700], [1, 1], [2000, 30]])("become the same mask in every form, %d x %d", (width, height) => {
    const mask = disk(40, 30, 25);
    const pixels = toBinary(mask, width, height);
    expect(pixels.data).toHaveLength(width * height);
    expect(toRle(mask, width, height)).toEqual(encodeRle(pixels));

    // A window on it, which extends beyond the image.
    const part = { x: 5, y: 7, width: 60, height: 50 };
    const window = toBinary(mask, width, height, part);
    for (let y = 0; y < part.height; y++)
      for (let x = 0; x < part.width; x++) {
        const [ix, iy] = [x + part.x, y + part.y];
        const inside = ix < width && iy < height && pixels.data[iy * width + ix];
        expect(window.data[y * part.width + x], `${x}, ${y}`).toBe(inside ? 1 : 0);
      }
  });

  it("are drawn for a screen at its own resolution", () => {
    const mask = disk(128, 100, 60);
    const whole = { x: 0, y: 0, width: 4000, height: 3000 };
    const screen = rasterise(mask, 4000, 3000, whole, 400, 300);
    const exact = toBinary(mask, 400, 300);
    expect(iou(screen, exact)).toBeGreaterThan(0.99);
    const same = rasterise(mask, 640, 480, { x: 0, y: 0, width: 640, height: 480 }, 640, 480);
    expect(iou(same, toBinary(mask, 640, 480))).toBeGreaterThan(0.999);
  });

  it("without anything positive are an empty mask", () => {
    expect(area(toBinary(disk(10, 10, -5), 640, 480))).toBe(0);
    expect(toRle(disk(10, 10, -5), 640, 480).counts).toBe(encodeRle(toBinary(disk(0, 0, -1), 640, 480)).counts);
  });
});
