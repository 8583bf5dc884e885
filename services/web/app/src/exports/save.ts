/** Files that a person gets: one as it is, several as a zip. */

import { strToU8, zip } from "fflate";
import type { NamedFile } from "./labels";

/** Save files through the browser. */
export async function saveFiles(files: readonly NamedFile[], zipName: string): Promise<void> {
  if (files.length === 1) {
    const [{ name, data }] = files;
    download(new Blob([data as BlobPart]), name.split("/").pop()!);
    return;
  }
  const entries = Object.fromEntries(files.map(({ name, data }) => [name, typeof data === "string" ? strToU8(data) : data]));
  const packed = await new Promise<Uint8Array>((resolve, reject) =>
    zip(entries, { level: 6 }, (error, data) => (error ? reject(error) : resolve(data))),
  );
  download(new Blob([packed as BlobPart], { type: "application/zip" }), zipName);
}

function download(blob: Blob, name: string): void {
  const url = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
