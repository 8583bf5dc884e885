/** An image's content with its history: a pure reducer. */

import type { Box, Point } from "@samserve/decoder";
import {
  type Content,
  type Draft,
  EMPTY_CONTENT,
  EMPTY_DRAFT,
  isEmpty,
  type LabeledObject,
  type Suggestion,
} from "./content";
import type { Stroke } from "./stroke";

export interface Document {
  past: readonly Content[];
  present: Content;
  future: readonly Content[];
}

export type Action =
  | { type: "point"; point: Point }
  | { type: "box"; box: Box }
  | { type: "candidate"; candidate: number }
  | { type: "refine"; maskInput: Float32Array }
  | { type: "stroke"; stroke: Stroke }
  | { type: "clear" }
  | { type: "accept"; object: LabeledObject }
  | { type: "reopen"; id: string }
  | { type: "add"; objects: readonly LabeledObject[] }
  | { type: "delete"; ids: readonly string[] }
  | { type: "classify"; ids: readonly string[]; classId: number }
  | { type: "hide"; ids: readonly string[]; hidden: boolean }
  | { type: "suggest"; suggestions: readonly Suggestion[] }
  | { type: "accept-suggestions"; ids: readonly string[]; classId: number }
  | { type: "reject-suggestions"; ids: readonly string[] }
  | { type: "answer"; id: string; label: Point["label"] }
  | { type: "undo" }
  | { type: "redo" };

const MOST_STEPS = 200;

export const EMPTY_DOCUMENT: Document = { past: [], present: EMPTY_CONTENT, future: [] };

/** A document without a history, as it is loaded. */
export function documentOf(present: Content): Document {
  return { past: [], present, future: [] };
}

/** Apply an action. A change becomes a step that can be undone; no change returns the same document. */
export function reduce(document: Document, action: Action): Document {
  const { past, present, future } = document;
  if (action.type === "undo") {
    if (past.length === 0) return document;
    return { past: past.slice(0, -1), present: past[past.length - 1], future: [present, ...future] };
  }
  if (action.type === "redo") {
    if (future.length === 0) return document;
    return { past: [...past, present], present: future[0], future: future.slice(1) };
  }

  const next = change(present, action);
  if (next === present) return document;
  if (action.type === "hide") return { past, present: next, future }; // a matter of view
  return { past: [...past, present].slice(-MOST_STEPS), present: next, future: [] };
}

function change(content: Content, action: Exclude<Action, { type: "undo" | "redo" }>): Content {
  const { objects, draft, suggestions } = content;
  const withDraft = (changed: Partial<Draft>): Content => ({ ...content, draft: { ...draft, ...changed } });

  switch (action.type) {
    case "point":
      return withDraft({ points: [...draft.points, action.point], candidate: 0 });
    case "box":
      return withDraft({ box: action.box, candidate: 0 });
    case "candidate":
      return draft.candidate === action.candidate ? content : withDraft({ candidate: action.candidate });
    case "refine":
      return withDraft({ maskInput: action.maskInput, candidate: 0 });
    case "stroke":
      return withDraft({ strokes: [...draft.strokes, action.stroke] });
    case "clear":
      return isEmpty(draft) && draft.editing === null ? content : { ...content, draft: EMPTY_DRAFT };
    case "accept":
      return { ...content, objects: put(objects, action.object), draft: EMPTY_DRAFT };
    case "reopen": {
      const object = objects.find(({ id }) => id === action.id);
      if (!object) return content;
      const prompts = object.draft ?? { ...EMPTY_DRAFT, base: object.rle };
      return { ...content, draft: { ...prompts, editing: object.id } };
    }
    case "add":
      return action.objects.length === 0 ? content : { ...content, objects: [...objects, ...action.objects] };
    case "delete": {
      const left = without(objects, action.ids);
      if (left.length === objects.length) return content;
      const editing = draft.editing !== null && action.ids.includes(draft.editing);
      return { ...content, objects: left, draft: editing ? EMPTY_DRAFT : draft };
    }
    case "classify":
      return { ...content, objects: each(objects, action.ids, { classId: action.classId }) };
    case "hide":
      return { ...content, objects: each(objects, action.ids, { hidden: action.hidden }) };
    case "suggest":
      return { ...content, suggestions: action.suggestions };
    case "accept-suggestions": {
      const taken = suggestions.filter(({ id }) => action.ids.includes(id));
      if (taken.length === 0) return content;
      return {
        ...content,
        objects: [...objects, ...taken.map((each) => objectOf(each, action.classId))],
        suggestions: without(suggestions, action.ids),
      };
    }
    case "reject-suggestions": {
      const left = without(suggestions, action.ids);
      return left.length === suggestions.length ? content : { ...content, suggestions: left };
    }
    case "answer": {
      // An unsure suggestion becomes the draft, with the click that it asks for.
      const asked = suggestions.find(({ id }) => id === action.id);
      if (!asked?.ask) return content;
      const points: Point[] = [
        { x: asked.point[0], y: asked.point[1], label: "foreground" },
        { x: asked.ask[0], y: asked.ask[1], label: action.label },
      ];
      return { ...content, draft: { ...EMPTY_DRAFT, points }, suggestions: without(suggestions, [action.id]) };
    }
  }
}

function objectOf({ id, rle, area, box, score, origin }: Suggestion, classId: number): LabeledObject {
  return { id, rle, area, box, score, origin, classId, hidden: false, crowd: false, draft: null };
}

function put(objects: readonly LabeledObject[], object: LabeledObject): readonly LabeledObject[] {
  if (!objects.some(({ id }) => id === object.id)) return [...objects, object];
  return objects.map((each) => (each.id === object.id ? object : each));
}

function each(
  objects: readonly LabeledObject[],
  ids: readonly string[],
  changed: Partial<LabeledObject>,
): readonly LabeledObject[] {
  return objects.map((object) => (ids.includes(object.id) ? { ...object, ...changed } : object));
}

function without<T extends { id: string }>(list: readonly T[], ids: readonly string[]): readonly T[] {
  const gone = new Set(ids);
  return list.filter(({ id }) => !gone.has(id));
}
