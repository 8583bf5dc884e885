/** YOLO's segmentation labels: a text file for each image, a line for each object. */

import { type Labels, type NamedFile, stemsOf } from "./labels";
import { joined, polygonsOf } from "./outlines";

/** Write labels and the list of classes. */
export function writeYolo({ classes, images }: Labels): NamedFile[] {
  const stems = stemsOf(images);
  const numbers = new Map(classes.map(({ id }, index) => [id, index]));
  const files = images.map(({ width, height, objects }, index): NamedFile => {
    const lines = objects.map(({ rle, classId }) => {
      const line = joined(polygonsOf(rle, 1));
      const shares = line.map(([x, y]) => `${share(x, width)} ${share(y, height)}`);
      return shares.length === 0 ? "" : `${numbers.get(classId) ?? 0} ${shares.join(" ")}\n`;
    });
    return { name: `labels/${stems[index]}.txt`, data: lines.join("") };
  });
  const names = classes.map(({ name }, index) => `  ${index}: ${JSON.stringify(name)}\n`).join("");
  return [...files, { name: "data.yaml", data: `path: .\ntrain: images\nval: images\nnames:\n${names}` }];
}

function share(value: number, of: number): string {
  return String(Number((value / of).toFixed(6)));
}
