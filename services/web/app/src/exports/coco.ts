/** COCO's instance annotations. */

import type { Rle } from "@samserve/decoder";
import { addClass, type LabelClass } from "../document/classes";
import type { LabeledObject } from "../document/content";
import { ringRuns } from "../document/polygon";
import { areaOf, boxOf, readRuns, type Runs, runsOfCounts, union, writeRuns } from "../document/runs";
import { newId } from "../store/ids";
import type { Labels, NamedFile } from "./labels";
import { polygonsOf } from "./outlines";

export type Segmentation = "rle" | "polygons";

/** Write annotations. Polygons lose the holes, which COCO's polygons cannot have. */
export function writeCoco({ classes, images }: Labels, segmentation: Segmentation): NamedFile {
  let last = 0;
  const coco = {
    info: { description: "Exported by samserve" },
    licenses: [],
    categories: classes.map(({ id, name }) => ({ id, name, supercategory: "" })),
    images: images.map(({ name, width, height }, index) => ({ id: index + 1, file_name: name, width, height })),
    annotations: images.flatMap(({ objects }, index) =>
      objects.map(({ classId, rle, area, box: [x0, y0, x1, y1], crowd, score }) => ({
        id: ++last,
        image_id: index + 1,
        category_id: classId,
        segmentation: segmentation === "rle" || crowd ? rle : ringsOf(rle),
        area,
        bbox: [x0, y0, x1 - x0, y1 - y0],
        iscrowd: crowd ? 1 : 0,
        ...(score > 0 ? { score } : {}),
      })),
    ),
  };
  return { name: "annotations.json", data: JSON.stringify(coco) };
}

function ringsOf(rle: Rle): number[][] {
  return polygonsOf(rle, 0.5).map(({ exterior }) => exterior.flat());
}

/** What a file of annotations holds. */
export interface Imported {
  classes: readonly LabelClass[];
  /** Objects by the name of their image. */
  objects: Map<string, LabeledObject[]>;
}

interface CocoFile {
  images: { id: number; file_name: string; width: number; height: number }[];
  categories: { id: number; name: string }[];
  annotations: CocoAnnotation[];
}

interface CocoAnnotation {
  image_id: number;
  category_id: number;
  segmentation?: number[][] | { size: [number, number]; counts: string | number[] };
  bbox?: number[];
  iscrowd?: number;
  score?: number;
}

/** Read annotations; classes are known by their names. Throws a sentence if the file has another form. */
export function readCoco(text: string, known: readonly LabelClass[]): Imported {
  const coco = parse(text);
  let classes = known;
  const ids = new Map<number, number>();
  for (const { id, name } of coco.categories) {
    const [all, added] = addClass(classes, String(name));
    classes = all;
    ids.set(id, added.id);
  }

  const images = new Map(coco.images.map((image) => [image.id, image]));
  const objects = new Map<string, LabeledObject[]>();
  for (const annotation of coco.annotations) {
    const image = images.get(annotation.image_id);
    const classId = ids.get(annotation.category_id);
    if (!image || classId === undefined) continue;
    const runs = runsOf(annotation, image.width, image.height);
    if (!runs || runs.edges.length === 0) continue;
    const object: LabeledObject = {
      id: newId(),
      classId,
      rle: writeRuns(runs),
      area: areaOf(runs),
      box: boxOf(runs),
      score: annotation.score ?? 0,
      origin: "import",
      hidden: false,
      crowd: annotation.iscrowd === 1,
      draft: null,
    };
    const name = image.file_name.split("/").pop()!;
    objects.set(name, [...(objects.get(name) ?? []), object]);
  }
  return { classes, objects };
}

function parse(text: string): CocoFile {
  try {
    const coco = JSON.parse(text) as CocoFile;
    if ([coco.images, coco.categories, coco.annotations].every(Array.isArray)) return coco;
  } catch {
    // The same sentence.
  }
  throw new Error("This file has no COCO annotations; expected JSON with images, annotations and categories.");
}

function runsOf({ segmentation, bbox }: CocoAnnotation, width: number, height: number): Runs | null {
  if (Array.isArray(segmentation)) {
    const rings = segmentation.filter((ring) => ring.length >= 6).map((ring) => ringRuns(ring, width, height));
    return rings.length > 0 ? rings.reduce(union) : null;
  }
  if (segmentation) {
    const { size, counts } = segmentation;
    if (size[0] !== height || size[1] !== width) return null;
    return typeof counts === "string" ? readRuns({ size, counts }) : runsOfCounts(counts, width, height);
  }
  if (!bbox) return null;
  const [x, y, w, h] = bbox;
  return ringRuns([x, y, x, y + h, x + w, y + h, x + w, y], width, height);
}
