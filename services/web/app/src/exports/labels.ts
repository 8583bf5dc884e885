/** What exports write: images with their objects. */

import type { LabelClass } from "../document/classes";
import type { LabeledObject } from "../document/content";

export interface LabeledImage {
  name: string;
  width: number;
  height: number;
  objects: readonly LabeledObject[];
  /** The image's bytes, when they are needed. */
  file: () => Promise<Blob>;
}

export interface Labels {
  classes: readonly LabelClass[];
  images: readonly LabeledImage[];
}

/** A file to save. */
export interface NamedFile {
  name: string;
  data: Uint8Array | string;
}

/** Names without their endings; equal ones get a number. */
export function stemsOf(images: readonly LabeledImage[]): string[] {
  const used = new Set<string>();
  return images.map(({ name }) => {
    const stem = name.replace(/\.[^.]+$/, "").replace(/[\\/:*?"<>|]/g, "_") || "image";
    let unique = stem;
    for (let number = 2; used.has(unique); number++) unique = `${stem}-${number}`;
    used.add(unique);
    return unique;
  });
}
