/** What can be done, and by which keys. The help sheet and the keyboard read the same table. */

import { signal } from "@preact/signals";
import { isEmpty } from "../document/content";
import { acceptDraft, clickAt, nextCandidate, refine, reopenObject } from "../store/prompting";
import { acceptSuggestions, acceptSure, answerSuggestion, cancelSweep, rejectSuggestions, stepSuggestion, sweep } from "../store/sweeping";
import {
  activeClass,
  background,
  brushRadius,
  candidates,
  classes,
  content,
  dispatch,
  opened,
  selected,
  step,
  type Tool,
  tool,
} from "../store/workspace";
import { movePointer, pan, pointer, zoomAt } from "../view/gestures";
import { fit, stageSize, view } from "../view/viewport";

export type Dialog = "help" | "export" | null;

export const dialog = signal<Dialog>(null);
export const panelOpen = signal(false);
/** Set by the component that opens files. */
export const openFiles = { pick: () => {} };

export interface Command {
  group: string;
  /** As `nameOf` writes them; the first is shown. */
  keys: readonly string[];
  text: string;
  run: () => void;
}

const POINTER_STEP = 4; // pixels of the screen
const PAN_STEP = 60;

const pick = (name: Tool) => () => {
  tool.value = name;
};

export const COMMANDS: readonly Command[] = [
  { group: "Tools", keys: ["C"], text: "Click", run: pick("click") },
  { group: "Tools", keys: ["B"], text: "Box", run: pick("box") },
  { group: "Tools", keys: ["P"], text: "Brush", run: pick("brush") },
  { group: "Tools", keys: ["E"], text: "Eraser", run: pick("eraser") },
  { group: "Tools", keys: ["V"], text: "Select and move", run: pick("select") },
  { group: "Tools", keys: ["["], text: "Smaller brush", run: () => resizeBrush(1 / 1.25) },
  { group: "Tools", keys: ["]"], text: "Larger brush", run: () => resizeBrush(1.25) },

  { group: "Mask", keys: ["X"], text: "Switch between include and leave out", run: () => toggleSign() },
  { group: "Mask", keys: ["I"], text: "Include the place of the pointer", run: () => clickPointer("foreground") },
  { group: "Mask", keys: ["O"], text: "Leave out the place of the pointer", run: () => clickPointer("background") },
  { group: "Mask", keys: ["1"], text: "First candidate", run: () => choose(0) },
  { group: "Mask", keys: ["2"], text: "Second candidate", run: () => choose(1) },
  { group: "Mask", keys: ["3"], text: "Third candidate", run: () => choose(2) },
  { group: "Mask", keys: ["N"], text: "Next candidate", run: nextCandidate },
  { group: "Mask", keys: ["R"], text: "Refine", run: refine },
  { group: "Mask", keys: ["Enter"], text: "Accept the mask", run: acceptDraft },
  { group: "Mask", keys: ["Escape"], text: "Discard the mask, or end the work", run: () => escape() },
  { group: "Mask", keys: ["Ctrl+Z"], text: "Undo", run: () => dispatch({ type: "undo" }) },
  { group: "Mask", keys: ["Ctrl+Shift+Z", "Ctrl+Y"], text: "Redo", run: () => dispatch({ type: "redo" }) },

  { group: "Objects", keys: ["J"], text: "Next object", run: () => stepObject(1) },
  { group: "Objects", keys: ["K"], text: "Previous object", run: () => stepObject(-1) },
  { group: "Objects", keys: ["M"], text: "Modify the selected object", run: () => modify() },
  { group: "Objects", keys: ["Delete", "Backspace"], text: "Delete the selected object", run: () => remove() },
  { group: "Objects", keys: ["H"], text: "Hide or show all objects", run: () => hideAll() },
  ...Array.from({ length: 9 }, (_, index): Command => {
    return { group: "Objects", keys: [`Shift+${index + 1}`], text: `Class ${index + 1}`, run: () => classify(index) };
  }),

  { group: "Suggestions", keys: ["G"], text: "Segment everything", run: () => void sweep("everything") },
  { group: "Suggestions", keys: ["S"], text: "Suggest what is left", run: () => void sweep("proposals") },
  { group: "Suggestions", keys: ["A"], text: "Accept the suggestion", run: () => acceptSuggestions() },
  { group: "Suggestions", keys: ["D"], text: "Reject the suggestion", run: () => rejectSuggestions() },
  { group: "Suggestions", keys: ["Shift+A"], text: "Accept all sure suggestions", run: acceptSure },
  { group: "Suggestions", keys: ["Shift+I"], text: "The place with “?” belongs to it", run: () => answerSuggestion("foreground") },
  { group: "Suggestions", keys: ["Shift+O"], text: "The place with “?” does not", run: () => answerSuggestion("background") },
  { group: "Suggestions", keys: ["W"], text: "Next suggestion", run: () => stepSuggestion(1) },
  { group: "Suggestions", keys: ["Q"], text: "Previous suggestion", run: () => stepSuggestion(-1) },

  { group: "View", keys: ["+", "="], text: "Zoom in", run: () => zoomAt(1.25) },
  { group: "View", keys: ["-"], text: "Zoom out", run: () => zoomAt(1 / 1.25) },
  { group: "View", keys: ["0", "F"], text: "Show the whole image", run: () => fitImage() },
  ...arrows("", "Move the pointer", (x, y) => movePointer(x * POINTER_STEP, y * POINTER_STEP)),
  ...arrows("Shift+", "Move the pointer far", (x, y) => movePointer(x * POINTER_STEP * 8, y * POINTER_STEP * 8)),
  ...arrows("Alt+", "Move the view", (x, y) => pan(-x * PAN_STEP, -y * PAN_STEP)),

  { group: "Images", keys: ["PageDown"], text: "Next image", run: () => step(1) },
  { group: "Images", keys: ["PageUp"], text: "Previous image", run: () => step(-1) },
  { group: "Images", keys: ["Ctrl+O"], text: "Open images", run: () => openFiles.pick() },
  { group: "Images", keys: ["Ctrl+E"], text: "Export", run: () => show("export") },
  { group: "Images", keys: ["?"], text: "This sheet", run: () => show("help") },
];

const byKey = new Map(COMMANDS.flatMap((command) => command.keys.map((key) => [key, command])));

/** The command of a key press, if it has one. */
export function commandOf(event: KeyboardEvent): Command | undefined {
  return byKey.get(nameOf(event));
}

/** A key press as the table writes it. */
export function nameOf({ key, code, ctrlKey, metaKey, altKey, shiftKey }: KeyboardEvent): string {
  const digit = /^Digit(\d)$/.exec(code)?.[1];
  const isLetter = /^[a-z]$/i.test(key);
  const base = digit !== undefined && shiftKey ? digit : isLetter ? key.toUpperCase() : key;
  // Signs such as "?" need shift on some keyboards.
  const shift = shiftKey && (isLetter || digit !== undefined || key.length > 1) ? "Shift+" : "";
  return (ctrlKey || metaKey ? "Ctrl+" : "") + (altKey ? "Alt+" : "") + shift + base;
}

export function resizeBrush(factor: number): void {
  brushRadius.value = Math.round(Math.min(Math.max(brushRadius.value * factor, 2), 200));
}

export function toggleSign(): void {
  background.value = !background.value;
}

export function fitImage(): void {
  if (opened.value) view.value = fit(opened.value.levels, stageSize.value);
}

export function choose(candidate: number): void {
  if (candidate < candidates.value.length) dispatch({ type: "candidate", candidate });
}

export function hideAll(): void {
  const { objects } = content.value;
  dispatch({ type: "hide", ids: objects.map(({ id }) => id), hidden: objects.some(({ hidden }) => !hidden) });
}

function show(name: Dialog): void {
  dialog.value = name;
}

function clickPointer(label: "foreground" | "background"): void {
  if (pointer.value) clickAt(pointer.value.x, pointer.value.y, label);
}

function escape(): void {
  cancelSweep();
  if (isEmpty(content.value.draft)) selected.value = null;
  dispatch({ type: "clear" });
}

function stepObject(by: 1 | -1): void {
  const { objects } = content.value;
  if (objects.length === 0) return;
  const index = objects.findIndex(({ id }) => id === selected.value);
  const next = index < 0 ? (by > 0 ? 0 : objects.length - 1) : (index + by + objects.length) % objects.length;
  selected.value = objects[next].id;
}

function modify(): void {
  if (selected.value !== null) reopenObject(selected.value);
}

function remove(): void {
  if (selected.value === null) return;
  dispatch({ type: "delete", ids: [selected.value] });
  selected.value = null;
}

function classify(index: number): void {
  const chosen = classes.value[index];
  if (!chosen) return;
  activeClass.value = chosen.id;
  if (selected.value !== null) dispatch({ type: "classify", ids: [selected.value], classId: chosen.id });
}

function arrows(prefix: string, text: string, run: (x: number, y: number) => void): Command[] {
  const directions: [string, number, number][] = [
    ["ArrowLeft", -1, 0],
    ["ArrowRight", 1, 0],
    ["ArrowUp", 0, -1],
    ["ArrowDown", 0, 1],
  ];
  return directions.map(([key, x, y]) => ({ group: "View", keys: [prefix + key], text, run: () => run(x, y) }));
}
