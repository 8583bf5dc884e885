import { useState } from "preact/hooks";
import { readCoco, type Segmentation, writeCoco } from "../exports/coco";
import type { LabeledImage, Labels, NamedFile } from "../exports/labels";
import { writeCutouts, writeMasks } from "../exports/png";
import { saveFiles } from "../exports/save";
import { writeYolo } from "../exports/yolo";
import { pickFile } from "../image/pick";
import { sentenceOf } from "../server/failure";
import { notify } from "../store/notices";
import { classes, dispatch, fileOf, images, keepImport, labelsOf, ofSize, opened } from "../store/workspace";
import { Button } from "./Button";
import { dialog } from "./commands";
import { Modal } from "./Modal";

type Format = "coco" | "yolo" | "masks" | "cutouts";

const FORMATS: readonly { name: Format; label: string; text: string }[] = [
  { name: "coco", label: "COCO", text: "One JSON file with classes, boxes, areas and masks" },
  { name: "yolo", label: "YOLO segmentation", text: "A text file for each image, and data.yaml" },
  { name: "masks", label: "PNG masks", text: "A black and white image for each object" },
  { name: "cutouts", label: "Cut-outs", text: "Each object alone, with a transparent background" },
];

/** Exports labels, and imports them to go on. */
export function ExportDialog() {
  const [format, setFormat] = useState<Format>("coco");
  const [segmentation, setSegmentation] = useState<Segmentation>("rle");
  const [all, setAll] = useState(true);
  const [busy, setBusy] = useState(false);
  const run = async () => {
    setBusy(true);
    try {
      await saveFiles(await filesOf(format, segmentation, await labels(all)), `samserve-${format}.zip`);
      dialog.value = null;
    } catch (error) {
      notify(sentenceOf(error), "error");
    } finally {
      setBusy(false);
    }
  };
  return (
    <Modal title="Export">
      <fieldset class="choices">
        <legend class="unseen">Format</legend>
        {FORMATS.map(({ name, label, text }) => (
          <label key={name} class="choice">
            <input type="radio" name="format" value={name} checked={format === name} onChange={() => setFormat(name)} />
            <span>
              <strong>{label}</strong>
              <span class="muted">{text}</span>
            </span>
          </label>
        ))}
      </fieldset>
      {format === "coco" && (
        <fieldset class="row">
          <legend class="unseen">Masks in COCO</legend>
          <Radio name="segmentation" label="Run lengths (exact)" checked={segmentation === "rle"} onChoose={() => setSegmentation("rle")} />
          <Radio name="segmentation" label="Polygons" checked={segmentation === "polygons"} onChoose={() => setSegmentation("polygons")} />
        </fieldset>
      )}
      {images.value.length > 1 && (
        <fieldset class="row">
          <legend class="unseen">Images</legend>
          <Radio name="images" label={`All ${images.value.length} images`} checked={all} onChoose={() => setAll(true)} />
          <Radio name="images" label="This image" checked={!all} onChoose={() => setAll(false)} />
        </fieldset>
      )}
      <div class="row">
        <Button label="Import COCO annotations" icon="import" onClick={() => void importCoco()}>
          Import COCO
        </Button>
        <span class="spring" />
        <Button label="Export" icon="export" kind="primary" disabled={busy || images.value.length === 0} onClick={() => void run()}>
          {busy ? "Exporting…" : "Export"}
        </Button>
      </div>
    </Modal>
  );
}

function Radio(props: { name: string; label: string; checked: boolean; onChoose: () => void }) {
  return (
    <label class="row">
      <input type="radio" name={props.name} checked={props.checked} onChange={props.onChoose} />
      <span>{props.label}</span>
    </label>
  );
}

async function labels(all: boolean): Promise<Labels> {
  const chosen = images.value.filter(({ key }) => all || key === opened.value?.key);
  const labeled: LabeledImage[] = [];
  for (const image of chosen) {
    if (image.imageId === null) continue; // never opened, so without labels
    const { name, width, height } = image;
    const { objects } = await labelsOf(image);
    labeled.push({ name, width, height, objects, file: () => fileOf(image) });
  }
  return { classes: classes.value, images: labeled };
}

async function filesOf(format: Format, segmentation: Segmentation, found: Labels): Promise<NamedFile[]> {
  const count = found.images.reduce((sum, { objects }) => sum + objects.length, 0);
  if (count === 0) throw new Error("There are no objects to export yet; accept one first.");
  switch (format) {
    case "coco":
      return [writeCoco(found, segmentation)];
    case "yolo":
      return writeYolo(found);
    case "masks":
      return writeMasks(found);
    case "cutouts":
      return writeCutouts(found);
  }
}

async function importCoco(): Promise<void> {
  const file = await pickFile("application/json,.json");
  if (!file) return;
  try {
    const imported = readCoco(await file.text(), classes.value);
    classes.value = imported.classes;
    let count = 0;
    let waiting = 0;
    for (const [name, objects] of imported.objects) {
      count += objects.length;
      if (name === opened.value?.name) {
        const { width, height } = opened.value.levels;
        dispatch({ type: "add", objects: ofSize(objects, width, height) });
      } else {
        waiting++;
        await keepImport(name, objects);
      }
    }
    const rest = waiting > 0 ? ` Those of ${waiting} other images come when the images are opened.` : "";
    notify(count === 0 ? `“${file.name}” has no objects.` : `${count} objects were imported.${rest}`);
    dialog.value = null;
  } catch (error) {
    notify(`“${file.name}” was not imported: ${sentenceOf(error)}`, "error");
  }
}
