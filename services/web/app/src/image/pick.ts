/** Images from the disk, the clipboard, or dropped on the page. */

import type { PickedFile } from "../store/workspace";

const NAMES = /\.(jpe?g|png|webp|bmp|gif|tiff?|avif)$/i;

interface PickerWindow {
  showDirectoryPicker?: () => Promise<FileSystemDirectoryHandle>;
}

/** The images of a folder that a person chooses, in the order of their names. Empty if none was chosen. */
export async function pickFolder(): Promise<PickedFile[]> {
  const pick = (window as PickerWindow).showDirectoryPicker;
  if (!pick) return pickedOf(await choose({ folder: true, accept: "" }));
  try {
    const found: PickedFile[] = [];
    await walk(await pick.call(window), found);
    return ordered(found);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") return [];
    throw error;
  }
}

/** Images that a person chooses. */
export async function pickImages(): Promise<PickedFile[]> {
  return pickedOf(await choose({ folder: false, accept: "image/*" }), false);
}

/** One file of another kind. */
export async function pickFile(accept: string): Promise<File | null> {
  return (await choose({ folder: false, accept, single: true }))[0] ?? null;
}

/** The images that were dropped or pasted, folders included. */
export async function droppedImages(data: DataTransfer): Promise<PickedFile[]> {
  const entries = [...data.items].map((item) => item.webkitGetAsEntry?.() ?? null);
  if (!entries.some((entry) => entry?.isDirectory)) return pickedOf([...data.files], false);
  const files: File[] = [];
  for (const entry of entries) if (entry) await readEntry(entry, files);
  return pickedOf(files);
}

/**
 * @param filter leave out what is no image, as of a folder; a file that was named stays, and its failure is shown.
 */
function pickedOf(files: readonly File[], filter = true): PickedFile[] {
  const images = filter ? files.filter(({ name }) => NAMES.test(name)) : files;
  return ordered(images.map((file) => ({ file, name: file.name, handle: null })));
}

function ordered(picked: PickedFile[]): PickedFile[] {
  return picked.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
}

async function walk(folder: FileSystemDirectoryHandle, found: PickedFile[]): Promise<void> {
  const entries = (folder as unknown as { values: () => AsyncIterable<FileSystemHandle> }).values();
  for await (const entry of entries) {
    if (entry.kind === "directory") await walk(entry as FileSystemDirectoryHandle, found);
    else if (NAMES.test(entry.name)) found.push({ file: null, name: entry.name, handle: entry as FileSystemFileHandle });
  }
}

async function readEntry(entry: FileSystemEntry, files: File[]): Promise<void> {
  if (entry.isFile) {
    files.push(await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject)));
    return;
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  for (;;) {
    // It answers at most a hundred at once.
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return;
    for (const each of some) await readEntry(each, files);
  }
}

function choose(options: { folder: boolean; accept: string; single?: boolean }): Promise<File[]> {
  return new Promise((resolve) => {
    const input = document.createElement("input");
    input.type = "file";
    input.accept = options.accept;
    input.multiple = !options.single;
    input.webkitdirectory = options.folder;
    input.onchange = () => resolve([...(input.files ?? [])]);
    input.oncancel = () => resolve([]);
    input.click();
  });
}
