/** What pointers do on the stage: clicks, boxes, strokes, pan and pinch. */

import { signal } from "@preact/signals";
import type { Box } from "@samserve/decoder";
import { isEmpty } from "../document/content";
import { contains, readRuns } from "../document/runs";
import type { Stroke } from "../document/stroke";
import { clickAt, endHover, hoverAt, reopenObject } from "../store/prompting";
import { background, brushRadius, content, dispatch, opened, selected, suggested, tool } from "../store/workspace";
import { panned, type Size, stageSize, toImage, view, zoomed } from "./viewport";

/** The box that is being drawn. */
export const rubberBand = signal<Box | null>(null);
/** The stroke that is being drawn. */
export const stroking = signal<Stroke | null>(null);
/** The place of the pointer in the image; `keyboard` if the arrow keys moved it. */
export const pointer = signal<{ x: number; y: number; keyboard: boolean } | null>(null);
/** Whether the space bar is held: any tool moves the view. */
export const grabbing = signal(false);

const CLICK_PIXELS = 5; // a longer way is a drag
const TAP_PIXELS = 10;

type Kind = "click" | "box" | "stroke" | "pan" | "pinch";

interface Gesture {
  kind: Kind;
  start: { x: number; y: number };
  last: { x: number; y: number };
  moved: boolean;
  label: "foreground" | "background";
  distance: number;
}

/** Listen to pointers on an element. Returns how to stop. */
export function attachGestures(element: HTMLElement): () => void {
  const fingers = new Map<number, { x: number; y: number }>();
  let gesture: Gesture | null = null;

  const placeOf = (event: MouseEvent) => {
    const { left, top } = element.getBoundingClientRect();
    return { x: event.clientX - left, y: event.clientY - top };
  };

  const down = (event: PointerEvent) => {
    if (!imageSize()) return;
    element.dataset.pressed = "";
    element.focus({ preventScroll: true });
    element.setPointerCapture(event.pointerId);
    const at = placeOf(event);
    fingers.set(event.pointerId, at);
    stroking.value = null;
    rubberBand.value = null;
    const label = event.button === 2 || event.shiftKey || background.value ? "background" : "foreground";
    const kind = fingers.size > 1 ? "pinch" : kindOf(event);
    gesture = { kind, start: at, last: at, moved: false, label, distance: spread(fingers) };
    if (kind === "stroke") beginStroke(at);
  };

  const move = (event: PointerEvent) => {
    const at = placeOf(event);
    if (fingers.has(event.pointerId)) fingers.set(event.pointerId, at);
    if (!gesture) {
      point(at, event);
      return;
    }
    if (gesture.kind === "pinch") {
      pinch(gesture, fingers);
      return;
    }
    const limit = event.pointerType === "touch" ? TAP_PIXELS : CLICK_PIXELS;
    gesture.moved ||= Math.hypot(at.x - gesture.start.x, at.y - gesture.start.y) > limit;
    if (gesture.kind === "click" && gesture.moved) gesture.kind = event.pointerType === "touch" ? "pan" : "box";
    if (gesture.kind === "pan") pan(at.x - gesture.last.x, at.y - gesture.last.y);
    if (gesture.kind === "box" && gesture.moved) rubberBand.value = boxBetween(gesture.start, at);
    if (gesture.kind === "stroke") continueStroke(at);
    gesture.last = at;
  };

  const up = (event: PointerEvent) => {
    fingers.delete(event.pointerId);
    const ended = gesture;
    if (fingers.size > 0) return; // the other finger of a pinch
    gesture = null;
    if (!ended || event.type === "pointercancel") {
      stroking.value = null;
      rubberBand.value = null;
      return;
    }
    if (ended.kind === "click" || (ended.kind === "pan" && !ended.moved)) press(ended);
    if (ended.kind === "box") endBox(ended);
    if (ended.kind === "stroke") endStroke();
  };

  const wheel = (event: WheelEvent) => {
    event.preventDefault();
    const at = placeOf(event);
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    if (event.ctrlKey || !event.shiftKey) zoomAt(Math.exp((-event.deltaY * lines * (event.ctrlKey ? 4 : 1)) / 500), at.x, at.y);
    else pan(-event.deltaY * lines, 0);
  };

  const blur = () => delete element.dataset.pressed;
  const leave = () => {
    if (gesture) return;
    pointer.value = null;
    endHover();
  };
  const ignore = (event: Event) => event.preventDefault();

  const listeners: [string, EventListener][] = [
    ["pointerdown", down as EventListener],
    ["pointermove", move as EventListener],
    ["pointerup", up as EventListener],
    ["pointercancel", up as EventListener],
    ["pointerleave", leave],
    ["wheel", wheel as EventListener],
    ["blur", blur],
    ["contextmenu", ignore],
  ];
  for (const [name, listener] of listeners) element.addEventListener(name, listener, { passive: false });
  return () => {
    for (const [name, listener] of listeners) element.removeEventListener(name, listener);
  };
}

/** Zoom around a place of the stage, its middle by default. */
export function zoomAt(factor: number, x = stageSize.value.width / 2, y = stageSize.value.height / 2): void {
  const image = imageSize();
  if (image) view.value = zoomed(view.value, factor, x, y, image, stageSize.value);
}

export function pan(dx: number, dy: number): void {
  const image = imageSize();
  if (image) view.value = panned(view.value, dx, dy, image, stageSize.value);
}

/** Move the pointer by keys, in pixels of the screen. */
export function movePointer(dx: number, dy: number): void {
  const image = imageSize();
  if (!image) return;
  const { scale, x, y } = view.value;
  const { width, height } = stageSize.value;
  const from = pointer.value ?? { x: (width / 2 - x) / scale, y: (height / 2 - y) / scale };
  const to = {
    x: Math.min(Math.max(from.x + dx / scale, 0), image.width - 1),
    y: Math.min(Math.max(from.y + dy / scale, 0), image.height - 1),
  };
  pointer.value = { ...to, keyboard: true };
  hoverAt(to.x, to.y, performance.now());
}

function imageSize(): Size | null {
  return opened.value?.levels ?? null;
}

function kindOf(event: PointerEvent): Kind {
  if (event.button === 1 || grabbing.value || tool.value === "select") return "pan";
  if (tool.value === "brush" || tool.value === "eraser") return "stroke";
  if (event.button === 2) return "click";
  return tool.value === "box" ? "box" : "click";
}

function point(at: { x: number; y: number }, event: PointerEvent): void {
  const image = imageSize();
  if (!image) return;
  const [x, y] = toImage(view.value, at.x, at.y);
  if (x < 0 || y < 0 || x >= image.width || y >= image.height) {
    pointer.value = null;
    endHover();
    return;
  }
  pointer.value = { x, y, keyboard: false };
  if (event.pointerType !== "touch") hoverAt(x, y, event.timeStamp);
}

function press({ start, label }: Gesture): void {
  const image = imageSize();
  if (!image || grabbing.value) return;
  const [x, y] = toImage(view.value, start.x, start.y);
  if (x < 0 || y < 0 || x >= image.width || y >= image.height) return;
  if (tool.value === "select") selectAt(x, y);
  else if (tool.value === "click") clickAt(x, y, label);
}

/** Select what is under the pointer; of several, the smallest. */
function selectAt(x: number, y: number): void {
  const { objects, suggestions } = content.value;
  const isThere = ({ box, rle }: (typeof suggestions)[number] | (typeof objects)[number]) =>
    x >= box[0] && x < box[2] && y >= box[1] && y < box[3] && contains(readRuns(rle), x, y);
  const there = [...objects.filter(({ hidden }) => !hidden), ...suggestions].filter(isThere);
  const smallest = there.sort((a, b) => a.area - b.area)[0];
  const isSuggestion = suggestions.some(({ id }) => id === smallest?.id);
  selected.value = smallest && !isSuggestion ? smallest.id : null;
  if (isSuggestion) suggested.value = smallest.id;
}

function boxBetween(a: { x: number; y: number }, b: { x: number; y: number }): Box | null {
  const image = imageSize()!;
  const [ax, ay] = toImage(view.value, a.x, a.y);
  const [bx, by] = toImage(view.value, b.x, b.y);
  const within = (value: number, most: number) => Math.min(Math.max(Math.round(value), 0), most);
  const box: Box = [
    within(Math.min(ax, bx), image.width),
    within(Math.min(ay, by), image.height),
    within(Math.max(ax, bx), image.width),
    within(Math.max(ay, by), image.height),
  ];
  return box[2] > box[0] && box[3] > box[1] ? box : null;
}

function endBox({ start, last, moved }: Gesture): void {
  const box = moved ? boxBetween(start, last) : null;
  rubberBand.value = null;
  if (box) dispatch({ type: "box", box });
}

function beginStroke(at: { x: number; y: number }): void {
  const radius = brushRadius.value / view.value.scale;
  stroking.value = { erase: tool.value === "eraser", radius, path: toImage(view.value, at.x, at.y) };
}

function continueStroke(at: { x: number; y: number }): void {
  const stroke = stroking.value;
  if (!stroke) return;
  const [x, y] = toImage(view.value, at.x, at.y);
  pointer.value = { x, y, keyboard: false };
  const [lastX, lastY] = stroke.path.slice(-2);
  if (Math.hypot(x - lastX, y - lastY) * view.value.scale < 2) return;
  stroking.value = { ...stroke, path: [...stroke.path, x, y] };
}

function endStroke(): void {
  const stroke = stroking.value;
  stroking.value = null;
  if (!stroke) return;
  // The brush changes the selected object, unless another one is in progress.
  if (isEmpty(content.value.draft) && selected.value !== null) reopenObject(selected.value);
  if (isEmpty(content.value.draft) && stroke.erase) return;
  dispatch({ type: "stroke", stroke });
}

function spread(fingers: Map<number, { x: number; y: number }>): number {
  const [a, b] = [...fingers.values()];
  return b ? Math.hypot(a.x - b.x, a.y - b.y) : 0;
}

function pinch(gesture: Gesture, fingers: Map<number, { x: number; y: number }>): void {
  const [a, b] = [...fingers.values()];
  if (!b) return;
  const middle = { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 };
  const distance = spread(fingers);
  if (gesture.moved) {
    pan(middle.x - gesture.last.x, middle.y - gesture.last.y);
    zoomAt(distance / gesture.distance, middle.x, middle.y);
  }
  gesture.moved = true;
  gesture.last = middle;
  gesture.distance = Math.max(distance, 1);
}
