/** What the browser keeps, so that a reload loses nothing: IndexedDB. */

import { type DBSchema, type IDBPDatabase, openDB } from "idb";
import type { LabelClass } from "../document/classes";
import type { Content, LabeledObject } from "../document/content";

/** An image of the strip. Its bytes are kept once it was opened. */
export interface SavedImage {
  key: string;
  name: string;
  /** Place in the strip. */
  order: number;
  /** SHA-256 of the bytes; null before it was opened. */
  imageId: string | null;
  file: Blob | null;
  /** The file on the disk, where the browser gives such handles. */
  handle: FileSystemFileHandle | null;
  thumbnail: Blob | null;
  width: number;
  height: number;
}

/** What is kept of one image's labels. */
export interface SavedLabels {
  imageId: string;
  name: string;
  width: number;
  height: number;
  content: Content;
}

/** Imported annotations whose image was not opened yet. */
export interface SavedImport {
  name: string;
  objects: readonly LabeledObject[];
}

export interface SavedProject {
  classes: readonly LabelClass[];
  activeClass: number;
  current: string | null;
}

interface Schema extends DBSchema {
  images: { key: string; value: SavedImage };
  labels: { key: string; value: SavedLabels };
  imports: { key: string; value: SavedImport };
  project: { key: string; value: SavedProject };
}

const PROJECT = "project";

/** The browser's database. Every method rejects if the browser does not let it keep data. */
export class Saved {
  private constructor(private readonly db: IDBPDatabase<Schema>) {}

  static async open(): Promise<Saved> {
    const db = await openDB<Schema>("samserve", 1, {
      upgrade(db) {
        db.createObjectStore("images", { keyPath: "key" });
        db.createObjectStore("labels", { keyPath: "imageId" });
        db.createObjectStore("imports", { keyPath: "name" });
        db.createObjectStore("project");
      },
    });
    return new Saved(db);
  }

  async images(): Promise<SavedImage[]> {
    return (await this.db.getAll("images")).sort((a, b) => a.order - b.order);
  }

  async putImage(image: SavedImage): Promise<void> {
    await this.db.put("images", image);
  }

  async deleteImage(key: string): Promise<void> {
    await this.db.delete("images", key);
  }

  labels(imageId: string): Promise<SavedLabels | undefined> {
    return this.db.get("labels", imageId);
  }

  async putLabels(labels: SavedLabels): Promise<void> {
    await this.db.put("labels", labels);
  }

  async takeImport(name: string): Promise<readonly LabeledObject[]> {
    const found = await this.db.get("imports", name);
    if (found) await this.db.delete("imports", name);
    return found?.objects ?? [];
  }

  async putImport(found: SavedImport): Promise<void> {
    await this.db.put("imports", found);
  }

  project(): Promise<SavedProject | undefined> {
    return this.db.get("project", PROJECT);
  }

  async putProject(project: SavedProject): Promise<void> {
    await this.db.put("project", project, PROJECT);
  }
}
