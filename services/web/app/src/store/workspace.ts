/** Everything that the page shows: the images, the open one, its labels, and the tools. */

import { batch, computed, effect, signal, untracked } from "@preact/signals";
import type { Mask } from "@samserve/decoder";
import { addClass, changeClass, FIRST_CLASSES, type LabelClass } from "../document/classes";
import { type Content, EMPTY_CONTENT } from "../document/content";
import { type Action, type Document, documentOf, EMPTY_DOCUMENT, reduce } from "../document/document";
import { decodeImage } from "../image/decode";
import { Levels } from "../image/levels";
import { keepLoaded } from "../offline";
import { hashOf } from "../server/embed";
import { isLeft, sentenceOf } from "../server/failure";
import { Connection } from "./connection";
import { newId } from "./ids";
import { notify } from "./notices";
import { Saved, type SavedImage } from "./saved";
import { model, place } from "./settings";

export type Tool = "select" | "click" | "box" | "brush" | "eraser";

/** The image on the screen. */
export interface OpenedImage {
  key: string;
  imageId: string;
  name: string;
  file: Blob;
  levels: Levels;
  /** When it was dropped or chosen, on the clock of `performance`. */
  since: number;
}

export const connection = new Connection();

export const images = signal<readonly SavedImage[]>([]);
export const currentKey = signal<string | null>(null);
export const opened = signal<OpenedImage | null>(null);
/** Counts the tiles that have come. */
export const tilesLoaded = signal(0);

export const history = signal<Document>(EMPTY_DOCUMENT);
export const content = computed<Content>(() => history.value.present);

export const classes = signal<readonly LabelClass[]>(FIRST_CLASSES);
export const activeClass = signal(FIRST_CLASSES[0].id);

export const tool = signal<Tool>("click");
/** What the next click says. */
export const background = signal(false);
export const brushRadius = signal(24); // pixels of the screen
export const selected = signal<string | null>(null);
/** The suggestion that is being looked at. */
export const suggested = signal<string | null>(null);

/** The candidates for the draft, best first. */
export const candidates = signal<readonly Mask[]>([]);
export const predicting = signal(false);

/** Whether everything is kept in the browser. */
export const saving = signal<"saved" | "saving" | "off">("saved");
export const started = signal(false);

let saved: Saved | null = null;
let loaded = () => {};
/** Resolves once it is known what the browser has kept. */
const loading = new Promise<void>((resolve) => (loaded = resolve));
let prewarming = new AbortController();

export function classOf(id: number): LabelClass {
  return classes.value.find((each) => each.id === id) ?? classes.value[0];
}

/** Change the labels of the open image. */
export function dispatch(action: Action): void {
  history.value = reduce(history.value, action);
}

/** Load what the browser has kept, and open the image that was open. */
export async function start(): Promise<void> {
  try {
    saved = await Saved.open();
    const project = await saved.project();
    batch(() => {
      if (project) {
        classes.value = project.classes;
        activeClass.value = project.activeClass;
      }
    });
    images.value = await saved.images();
    started.value = true;
    loaded();
    const last = images.value.find(({ key }) => key === project?.current) ?? images.value[0];
    if (last) await openImage(last.key);
    else await connection.warm();
  } catch (error) {
    started.value = true;
    loaded();
    if (saved === null) {
      saving.value = "off";
      notify("This browser keeps no data for the page: export your labels before you close it.", "error");
    } else notify(sentenceOf(error), "error");
  }
}

/** A file with its handle on the disk, if the browser gives one. */
export interface PickedFile {
  file: File | null;
  name: string;
  handle: FileSystemFileHandle | null;
}

/** Add images to the strip, and open the first of them. */
export async function addImages(picked: readonly PickedFile[]): Promise<void> {
  if (picked.length === 0) return;
  const since = performance.now();
  await loading;
  const order = Math.max(-1, ...images.value.map((each) => each.order)) + 1;
  const added = picked.map(({ file, name, handle }, index): SavedImage => {
    const facts = { imageId: null, thumbnail: null, width: 0, height: 0 };
    return { key: newId(), name, order: order + index, file, handle, ...facts };
  });
  images.value = [...images.value, ...added];
  // The bytes are kept once an image is opened: a folder may not fit into the browser.
  for (const image of added) if (image.handle) void put({ ...image, file: null });
  await openImage(added[0].key, since);
}

/** Open an image of the strip. */
export async function openImage(key: string, since = performance.now()): Promise<void> {
  prewarming.abort();
  connection.leave();
  const { signal } = connection;
  batch(() => {
    currentKey.value = key;
    opened.value?.levels.close();
    opened.value = null;
    history.value = EMPTY_DOCUMENT;
    candidates.value = [];
    selected.value = null;
    suggested.value = null;
  });
  void saveProject();

  const image = images.value.find((each) => each.key === key);
  if (!image) return;
  try {
    connection.stage.value = { kind: "working", text: "Reading the image", share: null };
    const file = image.file ?? (await fileOf(image));
    // The hash and the upload do not wait for the pixels on the screen, nor these for them.
    const decoding = decodeImage(file, image.name, signal);
    const hash = image.imageId ?? (await hashOf(file));
    const opening = decoding.then(() => connection.open(file, hash));
    opening.catch(() => {});
    const decoded = await decoding;
    signal.throwIfAborted();

    const imageId = hash ?? (await opening).imageId;
    if (dropTwin(key, imageId)) return;
    const { width, height, thumbnail } = decoded;
    const labels = await load(imageId, image.name, width, height);
    signal.throwIfAborted();
    batch(() => {
      const levels = new Levels(decoded, () => tilesLoaded.value++);
      opened.value = { key, imageId, name: image.name, file, levels, since };
      history.value = documentOf(labels);
      replace({ ...image, imageId, file, thumbnail, width, height });
    });
    void put(images.value.find((each) => each.key === key)!);

    const seen = await opening;
    if (seen.width !== width || seen.height !== height) {
      notify(
        `The server reads this image as ${seen.width} x ${seen.height} pixels, the browser as ` +
          `${width} x ${height}; save it without EXIF orientation and open it again.`,
        "error",
      );
    }
    void keepLoaded();
    void prewarmNext(key);
  } catch (error) {
    if (isLeft(error) || signal.aborted) return;
    if (opened.value === null && image.imageId === null) {
      // It was never an image, or is none that this page can show.
      notify(sentenceOf(error), "error");
      removeImage(key);
    } else connection.stage.value = { kind: "failed", text: sentenceOf(error), share: null };
  }
}

/** Open the embedding of the image on the screen again, as for another model, or after a failure. */
export function openAgain(): void {
  const image = opened.value;
  if (!image) {
    if (currentKey.value !== null) void openImage(currentKey.value);
    return;
  }
  connection.leave();
  candidates.value = [];
  connection.open(image.file, image.imageId).catch(() => {}); // the stage says what failed
}

/** Open the image before or after the current one. */
export function step(by: 1 | -1): void {
  const next = images.value[images.value.findIndex(({ key }) => key === currentKey.value) + by];
  if (next) void openImage(next.key);
}

/** Take an image out of the strip. Its labels stay, and come back with it. */
export function removeImage(key: string): void {
  const index = images.value.findIndex((each) => each.key === key);
  images.value = images.value.filter((each) => each.key !== key);
  void saved?.deleteImage(key).catch(saveFailed);
  if (currentKey.value !== key) return;
  const next = images.value[Math.min(index, images.value.length - 1)];
  if (next) {
    void openImage(next.key);
    return;
  }
  connection.leave();
  batch(() => {
    currentKey.value = null;
    opened.value?.levels.close();
    opened.value = null;
    history.value = EMPTY_DOCUMENT;
  });
  void saveProject();
}

/** The labels of an image: of the open one as they are now. */
export async function labelsOf(image: SavedImage): Promise<Content> {
  if (image.key === opened.value?.key) return content.value;
  if (image.imageId === null) return EMPTY_CONTENT;
  return (await saved?.labels(image.imageId))?.content ?? EMPTY_CONTENT;
}

/** The bytes of an image. Throws a sentence if they cannot be had. */
export async function fileOf(image: SavedImage): Promise<Blob> {
  if (image.file) return image.file;
  try {
    if (image.handle) {
      const state = await permission(image.handle);
      if (state === "granted") return await image.handle.getFile();
    }
  } catch {
    // Moved or deleted.
  }
  throw new Error(`“${image.name}” cannot be read from the disk any more; open it again. Its labels are kept.`);
}

/** Keep imported objects until an image of this name is opened. */
export async function keepImport(name: string, objects: Content["objects"]): Promise<void> {
  await saved?.putImport({ name, objects });
}

export function newClass(name: string): LabelClass {
  const [all, added] = addClass(classes.value, name);
  classes.value = all;
  return added;
}

export function editClass(id: number, changed: Partial<Omit<LabelClass, "id">>): void {
  classes.value = changeClass(classes.value, id, changed);
}

/** Delete a class that no object of the open image has. */
export function deleteClass(id: number): void {
  const { name } = classOf(id);
  const used = content.value.objects.filter(({ classId }) => classId === id).length;
  if (used > 0) {
    notify(`${used} ${used === 1 ? "object is" : "objects are"} of class “${name}”; give them another class first.`);
    return;
  }
  if (classes.value.length === 1) {
    notify("There must be one class.");
    return;
  }
  classes.value = classes.value.filter((each) => each.id !== id);
  if (activeClass.value === id) activeClass.value = classes.value[0].id;
}

// The rest is about keeping things.

async function load(imageId: string, name: string, width: number, height: number): Promise<Content> {
  const labels = (await saved?.labels(imageId))?.content ?? EMPTY_CONTENT;
  const imported = (await saved?.takeImport(name)) ?? [];
  if (imported.length === 0) return labels;
  return { ...labels, objects: [...labels.objects, ...ofSize(imported, width, height)] };
}

/** Imported objects that have the image's size. */
export function ofSize(objects: Content["objects"], width: number, height: number): Content["objects"] {
  const fit = objects.filter(({ rle: { size } }) => size[0] === height && size[1] === width);
  const others = objects.length - fit.length;
  if (others > 0) notify(`${others} imported objects have the size of another image and were left out.`, "error");
  return fit;
}

/** An image that is in the strip twice stays once. */
function dropTwin(key: string, imageId: string): boolean {
  const twin = images.value.find((each) => each.key !== key && each.imageId === imageId);
  if (!twin) return false;
  images.value = images.value.filter((each) => each.key !== key);
  void saved?.deleteImage(key).catch(saveFailed);
  void openImage(twin.key);
  return true;
}

function replace(image: SavedImage): void {
  images.value = images.value.map((each) => (each.key === image.key ? image : each));
}

async function prewarmNext(key: string): Promise<void> {
  const next = images.value[images.value.findIndex((each) => each.key === key) + 1];
  if (!next) return;
  prewarming = new AbortController();
  try {
    await connection.prewarm(await fileOf(next), prewarming.signal);
  } catch {
    // It is embedded when it is opened, which says what failed.
  }
}

async function permission(handle: FileSystemFileHandle): Promise<PermissionState> {
  const asked = handle as FileSystemFileHandle & {
    queryPermission?: () => Promise<PermissionState>;
    requestPermission?: () => Promise<PermissionState>;
  };
  const state = (await asked.queryPermission?.()) ?? "granted";
  return state === "prompt" ? ((await asked.requestPermission?.()) ?? "denied") : state;
}

async function put(image: SavedImage): Promise<void> {
  await saved?.putImage(image).catch(saveFailed);
}

function saveFailed(error: unknown): void {
  saving.value = "off";
  notify(`The browser could not keep your work: ${sentenceOf(error)} Export it before you close the page.`, "error");
}

async function saveProject(): Promise<void> {
  if (!saved || !started.value) return;
  const project = { classes: classes.value, activeClass: activeClass.value, current: currentKey.value };
  await saved.putProject(project).catch(saveFailed);
}

let waiting: (() => Promise<void>) | null = null;
let running = false;

/** Save the newest state; one write at a time. */
async function saveLabels(): Promise<void> {
  if (running) return;
  running = true;
  saving.value = "saving";
  while (waiting) {
    const write = waiting;
    waiting = null;
    await write();
  }
  running = false;
  if (saving.value === "saving") saving.value = "saved";
}

effect(() => {
  const image = opened.value;
  const present = content.value;
  if (!image || !saved) return;
  const { imageId, name, levels } = image;
  const labels = { imageId, name, width: levels.width, height: levels.height, content: present };
  waiting = () => saved!.putLabels(labels).catch(saveFailed);
  void saveLabels();
});

effect(() => {
  void [classes.value, activeClass.value];
  void saveProject();
});

// Another place or model: the image stays on the screen, its embedding is opened again.
let before = `${place.value} ${model.value}`;
effect(() => {
  const now = `${place.value} ${model.value}`;
  if (now === before) return;
  before = now;
  untracked(openAgain);
});
