/** The image, its objects, and what is in progress: three canvases, as each changes more often than the one before. */

import { computed, effect, signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { chosen, drawn, hover } from "../store/prompting";
import { currentSuggestion } from "../store/sweeping";
import { afterPaint, record } from "../store/timings";
import {
  activeClass,
  brushRadius,
  candidates,
  classes,
  classOf,
  content,
  opened,
  selected,
  tilesLoaded,
  tool,
} from "../store/workspace";
import { attachGestures, grabbing, pointer, rubberBand, stroking } from "../view/gestures";
import { pathOf } from "../view/outline";
import { Painter } from "../view/painter";
import { fit, stageSize, view, visible } from "../view/viewport";

const SUGGESTED = "#22d3ee";

const outlinesReady = signal(0);
const measured = new WeakSet<object>();
const drawnPath = computed(() => drawn.value && pathOf(drawn.value));
const isBrushing = computed(() => tool.value === "brush" || tool.value === "eraser");
/** The pointer, where it is drawn. */
const marker = computed(() => (isBrushing.value || pointer.value?.keyboard ? pointer.value : null));

export function Stage() {
  const stage = useRef<HTMLDivElement>(null);
  const photo = useRef<HTMLCanvasElement>(null);
  const labels = useRef<HTMLCanvasElement>(null);
  const progress = useRef<HTMLCanvasElement>(null);

  useEffect(() => {
    const ends = [
      followSize(stage.current!, [photo.current!, labels.current!, progress.current!]),
      attachGestures(stage.current!),
      onFrames(() => drawImage(photo.current!)),
      onFrames(() => drawLabels(labels.current!)),
      onFrames(() => drawProgress(progress.current!)),
      fitNewImages(),
    ];
    window.samserve.toWindow = (x, y) => {
      const { left, top } = stage.current!.getBoundingClientRect();
      const at = view.peek();
      return [left + at.x + x * at.scale, top + at.y + y * at.scale];
    };
    return () => ends.forEach((end) => end());
  }, []);

  const moving = grabbing.value || tool.value === "select";
  const brushing = isBrushing.value && !grabbing.value;
  return (
    <div
      ref={stage}
      id="stage"
      class={`stage ${moving ? "is-moving" : brushing ? "is-brushing" : ""}`}
      role="application"
      aria-label="Image. Arrow keys move the pointer, I includes its place, O leaves it out, Enter accepts."
      tabIndex={0}
    >
      <canvas ref={photo} aria-hidden="true" />
      <canvas ref={labels} aria-hidden="true" />
      <canvas ref={progress} aria-hidden="true" />
    </div>
  );
}

function drawImage(canvas: HTMLCanvasElement): void {
  const context = canvas.getContext("2d")!;
  const image = opened.value;
  const stage = stageSize.value;
  const at = view.value;
  void tilesLoaded.value;
  const ratio = canvas.width / stage.width;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (!image) return;
  context.setTransform(at.scale * ratio, 0, 0, at.scale * ratio, at.x * ratio, at.y * ratio);
  image.levels.draw(context, at.scale * ratio, visible(at, image.levels, stage));
}

function drawLabels(canvas: HTMLCanvasElement): void {
  void [outlinesReady.value, classes.value];
  const painter = painterOn(canvas);
  const again = () => outlinesReady.value++;
  const { objects, draft, suggestions } = content.value;
  const others = objects.filter(({ id }) => id !== draft.editing);
  painter?.objects(others, (id) => classOf(id).color, selected.value, again);
  painter?.suggestions(suggestions, currentSuggestion.value, SUGGESTED, again);
}

function drawProgress(canvas: HTMLCanvasElement): void {
  const painter = painterOn(canvas);
  const { objects, draft } = content.value;
  const edited = objects.find(({ id }) => id === draft.editing);
  const { color } = classOf(edited?.classId ?? activeClass.value);
  if (!painter) return;

  if (drawnPath.value) painter.shape(drawnPath.value, color, 0.4, 2);
  else if (chosen.value) painter.mask(chosen.value, color);
  else if (hover.value) painter.mask(hover.value.mask, color);
  painter.prompts(draft);
  if (rubberBand.value) painter.box(rubberBand.value);
  if (stroking.value) painter.stroke(stroking.value, color);
  const place = marker.value;
  if (place && isBrushing.value) painter.brush(place.x, place.y, brushRadius.value);
  else if (place) painter.crosshair(place.x, place.y);
  measure();
}

/** Clear a canvas to draw on it; null if there is no image. */
function painterOn(canvas: HTMLCanvasElement): Painter | null {
  const image = opened.value;
  const stage = stageSize.value;
  const context = canvas.getContext("2d")!;
  const ratio = canvas.width / stage.width;
  const painter = new Painter(context, { view: view.value, image: image?.levels ?? stage, stage, ratio });
  return image ? painter : null;
}

/** Note when a new mask is on the screen. */
function measure(): void {
  const shown = hover.value;
  const first = shown?.mask ?? candidates.value[0];
  const image = opened.value;
  if (shown && !measured.has(shown)) {
    measured.add(shown);
    afterPaint(() => record("hover", performance.now() - shown.since));
  }
  if (image && first && !measured.has(image)) {
    measured.add(image);
    afterPaint(() => record("first", performance.now() - image.since));
  }
}

/** Draw in the next frame whenever something has changed that the drawing reads. */
function onFrames(draw: () => void): () => void {
  let frame = 0;
  let end = () => {};
  const run = () => {
    frame = 0;
    end();
    let first = true;
    end = effect(() => {
      if (first) {
        first = false;
        draw();
      } else if (frame === 0) frame = requestAnimationFrame(run);
    });
  };
  run();
  return () => {
    end();
    cancelAnimationFrame(frame);
  };
}

function followSize(stage: HTMLElement, canvases: HTMLCanvasElement[]): () => void {
  const observer = new ResizeObserver(() => {
    const { clientWidth: width, clientHeight: height } = stage;
    const ratio = Math.min(devicePixelRatio, 2);
    for (const canvas of canvases) {
      canvas.width = Math.max(Math.round(width * ratio), 1);
      canvas.height = Math.max(Math.round(height * ratio), 1);
    }
    const before = stageSize.peek();
    const image = opened.peek()?.levels;
    const wasFitted = image && fit(image, before).scale === view.peek().scale;
    stageSize.value = { width: Math.max(width, 1), height: Math.max(height, 1) };
    if (image && wasFitted) view.value = fit(image, stageSize.value);
  });
  observer.observe(stage);
  return () => observer.disconnect();
}

/** A new image is shown whole. */
function fitNewImages(): () => void {
  let shown: unknown = null;
  return effect(() => {
    const image = opened.value;
    if (image && image !== shown) view.value = fit(image.levels, stageSize.peek());
    shown = image;
  });
}
