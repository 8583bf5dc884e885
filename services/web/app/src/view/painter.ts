/** Draws labels over the image. Sizes of lines and marks are in pixels of the screen. */

import type { Box, Mask, Point } from "@samserve/decoder";
import type { Draft, LabeledObject, Suggestion } from "../document/content";
import type { Stroke } from "../document/stroke";
import { outlineOf } from "./outline";
import { tint } from "./tint";
import { type Size, type View, visible } from "./viewport";

export const FOREGROUND = "#22c55e";
export const BACKGROUND = "#ef4444";

/** What is drawn, and where. */
export interface Scene {
  view: View;
  image: Size;
  stage: Size;
  /** Pixels of the canvas for each CSS pixel. */
  ratio: number;
}

export class Painter {
  constructor(
    private readonly context: CanvasRenderingContext2D,
    private readonly scene: Scene,
  ) {
    const { ratio, stage } = scene;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, stage.width, stage.height);
    context.lineJoin = "round";
    context.lineCap = "round";
  }

  /** Draw accepted objects. */
  objects(objects: readonly LabeledObject[], colorOf: (id: number) => string, selected: string | null, again: () => void): void {
    for (const { id, rle, classId, hidden } of objects) {
      if (hidden) continue;
      const path = outlineOf(rle, again);
      if (path) this.shape(path, colorOf(classId), id === selected ? 0.5 : 0.32, id === selected ? 3 : 1.5);
    }
  }

  /** Draw suggestions as dashed outlines, the current one filled. */
  suggestions(suggestions: readonly Suggestion[], current: Suggestion | null, color: string, again: () => void): void {
    for (const { id, rle } of suggestions) {
      const path = outlineOf(rle, again);
      if (path && id !== current?.id) this.shape(path, color, 0.06, 1, [4, 4]);
    }
    const path = current && outlineOf(current.rle, again);
    if (path) this.shape(path, color, 0.4, 2.5, [7, 5]);
    if (current?.ask) this.question(current.ask[0], current.ask[1]);
  }

  /** Draw a mask as the decoder gave it. */
  mask(mask: Mask, color: string): void {
    const { view, image, stage, ratio } = this.scene;
    const tinted = tint(mask, image, visible(view, image, stage), view.scale * Math.min(ratio, 1.5), color);
    if (!tinted) return;
    const { x, y, width, height } = tinted.region;
    this.inImage(() => this.context.drawImage(tinted.canvas, x, y, width, height));
  }

  /** Fill and outline a path in the image's pixels. */
  shape(path: Path2D, color: string, opacity: number, line: number, dash: number[] = []): void {
    const { context } = this;
    this.inImage((scale) => {
      context.globalAlpha = opacity;
      context.fillStyle = color;
      context.fill(path, "evenodd");
      context.globalAlpha = 1;
      context.strokeStyle = color;
      context.lineWidth = line / scale;
      context.setLineDash(dash.map((length) => length / scale));
      context.stroke(path);
      context.setLineDash([]);
    });
  }

  /** Draw the draft's clicks and its box. */
  prompts({ points, box }: Draft): void {
    if (box) this.box(box);
    for (const point of points) this.click(point);
  }

  box([x0, y0, x1, y1]: Readonly<Box>): void {
    const { context } = this;
    const [left, top] = this.toScreen(x0, y0);
    const [right, bottom] = this.toScreen(x1, y1);
    for (const [width, style] of [
      [3.5, "rgba(0, 0, 0, 0.55)"],
      [1.5, "#fff"],
    ] as const) {
      context.lineWidth = width;
      context.strokeStyle = style;
      context.strokeRect(left, top, right - left, bottom - top);
    }
  }

  /** Draw a stroke that is being made. */
  stroke({ path, radius, erase }: Stroke, color: string): void {
    const { context } = this;
    this.inImage(() => {
      context.globalAlpha = 0.5;
      context.strokeStyle = erase ? "#fff" : color;
      context.lineWidth = 2 * radius;
      context.beginPath();
      context.moveTo(path[0], path[1]);
      for (let i = 0; i < path.length; i += 2) context.lineTo(path[i], path[i + 1]);
      context.stroke();
      context.globalAlpha = 1;
    });
  }

  /** Draw the brush's edge; `radius` in pixels of the screen. */
  brush(x: number, y: number, radius: number): void {
    const [left, top] = this.toScreen(x, y);
    this.ring(left, top, radius, "rgba(0, 0, 0, 0.6)", 3);
    this.ring(left, top, radius, "#fff", 1.25);
  }

  /** Draw the pointer that keys move. */
  crosshair(x: number, y: number): void {
    const { context } = this;
    const [left, top] = this.toScreen(x, y);
    for (const [width, style] of [
      [4, "rgba(0, 0, 0, 0.6)"],
      [1.5, "#fff"],
    ] as const) {
      context.lineWidth = width;
      context.strokeStyle = style;
      context.beginPath();
      for (const [dx, dy] of [
        [1, 0],
        [-1, 0],
        [0, 1],
        [0, -1],
      ]) {
        context.moveTo(left + 4 * dx, top + 4 * dy);
        context.lineTo(left + 16 * dx, top + 16 * dy);
      }
      context.stroke();
    }
  }

  private click({ x, y, label }: Point): void {
    const { context } = this;
    const [left, top] = this.toScreen(x, y);
    context.fillStyle = label === "foreground" ? FOREGROUND : BACKGROUND;
    context.beginPath();
    context.arc(left, top, 7, 0, 2 * Math.PI);
    context.fill();
    this.ring(left, top, 7, "#fff", 2);
    context.strokeStyle = "#fff";
    context.lineWidth = 2;
    context.beginPath();
    context.moveTo(left - 3, top);
    context.lineTo(left + 3, top);
    if (label === "foreground") {
      context.moveTo(left, top - 3);
      context.lineTo(left, top + 3);
    }
    context.stroke();
  }

  /** Mark the place that a suggestion asks about. */
  private question(x: number, y: number): void {
    const { context } = this;
    const [left, top] = this.toScreen(x, y);
    context.fillStyle = "#111827";
    context.beginPath();
    context.arc(left, top, 10, 0, 2 * Math.PI);
    context.fill();
    this.ring(left, top, 10, "#fff", 2);
    context.fillStyle = "#fff";
    context.font = "600 13px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText("?", left, top + 0.5);
  }

  private ring(x: number, y: number, radius: number, style: string, width: number): void {
    const { context } = this;
    context.strokeStyle = style;
    context.lineWidth = width;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.stroke();
  }

  private toScreen(x: number, y: number): [number, number] {
    const { scale, x: left, y: top } = this.scene.view;
    return [x * scale + left, y * scale + top];
  }

  private inImage(draw: (scale: number) => void): void {
    const { view } = this.scene;
    this.context.save();
    this.context.translate(view.x, view.y);
    this.context.scale(view.scale, view.scale);
    draw(view.scale);
    this.context.restore();
  }
}
