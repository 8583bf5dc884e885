import { unzlibSync } from "fflate";
import { expect, test } from "vitest";
import type { LabelClass } from "../src/document/classes";
import type { LabeledObject } from "../src/document/content";
import { readCoco, writeCoco } from "../src/exports/coco";
import { type LabeledImage, stemsOf } from "../src/exports/labels";
import { joined } from "../src/exports/outlines";
import { greyPng } from "../src/exports/png";

const CLASSES: LabelClass[] = [
  { id: 1, name: "coin", color: "#3b82f6" },
  { id: 4, name: "stone", color: "#f59e0b" },
];

const OBJECT: LabeledObject = {
  id: "a",
  rle: { size: [4, 5], counts: "522O8" },
  area: 3,
  box: [1, 1, 3, 3],
  score: 0.5,
  origin: "prompt",
  classId: 4,
  hidden: false,
  crowd: false,
  draft: null,
};

function image(name: string, objects: LabeledObject[] = [OBJECT]): LabeledImage {
  return { name, width: 5, height: 4, objects, file: () => Promise.reject(new Error("not needed")) };
}

test("COCO has boxes as x, y, width, height, and reads back", () => {
  const { data } = writeCoco({ classes: CLASSES, images: [image("a.jpg"), image("b.jpg", [])] }, "rle");
  const coco = JSON.parse(data as string);
  expect(coco.annotations).toEqual([
    { id: 1, image_id: 1, category_id: 4, segmentation: OBJECT.rle, area: 3, bbox: [1, 1, 2, 2], iscrowd: 0, score: 0.5 },
  ]);
  const imported = readCoco(data as string, [{ id: 9, name: "stone", color: "#000000" }]);
  expect(imported.classes.map(({ name }) => name)).toEqual(["stone", "coin"]);
  expect([...imported.objects.keys()]).toEqual(["a.jpg"]);
  expect(imported.objects.get("a.jpg")![0]).toMatchObject({ rle: OBJECT.rle, area: 3, box: [1, 1, 3, 3], classId: 9 });
});

test.each([
  ["uncompressed counts", { size: [4, 5], counts: [5, 2, 2, 1, 10] }],
  ["polygons", [[1, 1, 2, 1, 2, 3, 1, 3], [2, 1, 3, 1, 3, 2, 2, 2]]],
])("COCO's %s are read", (_, segmentation) => {
  const coco = {
    images: [{ id: 7, file_name: "folder/a.jpg", width: 5, height: 4 }],
    categories: [{ id: 3, name: "coin" }],
    annotations: [{ image_id: 7, category_id: 3, segmentation }],
  };
  expect(readCoco(JSON.stringify(coco), CLASSES).objects.get("a.jpg")![0].rle).toEqual(OBJECT.rle);
});

test.each(["", "[]", "{}", '{"images": 3}'])("a file with %j is refused in a sentence", (text) => {
  expect(() => readCoco(text, CLASSES)).toThrow("This file has no COCO annotations");
});

test("equal names get a number", () => {
  expect(stemsOf([image("a.jpg"), image("a.png"), image("x/y.png")])).toEqual(["a", "a-2", "x_y"]);
});

test("parts and holes become one line that keeps the area", () => {
  const polygons = [
    { exterior: square(0, 10), holes: [square(2, 4).reverse()] },
    { exterior: square(20, 25), holes: [] },
  ];
  expect(areaOf(joined(polygons))).toBeCloseTo(100 - 4 + 25);
});

test("a grey PNG has its pixels", () => {
  const pixels = Uint8Array.of(0, 255, 255, 0, 255, 0);
  const png = greyPng(pixels, 3, 2);
  const length = new DataView(png.buffer).getUint32(33);
  expect([...unzlibSync(png.subarray(41, 41 + length))]).toEqual([0, 0, 255, 255, 0, 0, 255, 0]);
});

function square(from: number, to: number): [number, number][] {
  return [
    [from, from],
    [from, to],
    [to, to],
    [to, from],
  ];
}

function areaOf(ring: [number, number][]): number {
  const doubled = ring.reduce((sum, [x, y], index) => {
    const [nextX, nextY] = ring[(index + 1) % ring.length];
    return sum + x * nextY - nextX * y;
  }, 0);
  return Math.abs(doubled) / 2;
}
