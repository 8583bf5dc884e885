import { expect, test } from "vitest";
import { EMPTY_DRAFT, type LabeledObject, type Suggestion } from "../src/document/content";
import { type Action, type Document, EMPTY_DOCUMENT, reduce } from "../src/document/document";

const RLE = { size: [4, 5] as [number, number], counts: "522O8" };
const SHAPE = { rle: RLE, area: 3, box: [1, 1, 3, 3] as const, score: 0.9 };

function object(id: string, classId = 1): LabeledObject {
  return { ...SHAPE, id, classId, origin: "prompt", hidden: false, crowd: false, draft: { ...EMPTY_DRAFT, points: [at(1)] } };
}

function suggestion(id: string, ask: Suggestion["ask"] = null): Suggestion {
  return { ...SHAPE, id, origin: "proposal", sure: ask === null, point: [2, 2], ask };
}

function at(x: number) {
  return { x, y: x, label: "foreground" as const };
}

function after(...actions: Action[]): Document {
  return actions.reduce(reduce, EMPTY_DOCUMENT);
}

test("every step can be undone and redone", () => {
  const actions: Action[] = [
    { type: "point", point: at(1) },
    { type: "box", box: [0, 0, 3, 3] },
    { type: "candidate", candidate: 2 },
    { type: "stroke", stroke: { erase: false, radius: 2, path: [1, 1] } },
    { type: "accept", object: object("a") },
    { type: "classify", ids: ["a"], classId: 2 },
    { type: "suggest", suggestions: [suggestion("s")] },
    { type: "accept-suggestions", ids: ["s"], classId: 1 },
    { type: "delete", ids: ["a"] },
  ];
  const states = [EMPTY_DOCUMENT];
  for (const action of actions) states.push(reduce(states[states.length - 1], action));
  let document = states[states.length - 1];
  for (const state of [...states].reverse()) {
    expect(document.present).toBe(state.present);
    document = reduce(document, { type: "undo" });
  }
  for (const state of states.slice(1)) {
    document = reduce(document, { type: "redo" });
    expect(document.present).toBe(state.present);
  }
});

test("a step after an undo ends what could be redone", () => {
  const document = after({ type: "point", point: at(1) }, { type: "undo" }, { type: "point", point: at(2) });
  expect(reduce(document, { type: "redo" })).toBe(document);
  expect(document.present.draft.points).toEqual([at(2)]);
});

test("what changes nothing is no step", () => {
  for (const action of [
    { type: "clear" },
    { type: "undo" },
    { type: "delete", ids: ["none"] },
    { type: "reject-suggestions", ids: ["none"] },
    { type: "reopen", id: "none" },
  ] as Action[]) {
    expect(reduce(EMPTY_DOCUMENT, action)).toBe(EMPTY_DOCUMENT);
  }
});

test("an accepted draft becomes an object, and a new draft begins", () => {
  const { present } = after({ type: "point", point: at(1) }, { type: "accept", object: object("a") });
  expect(present.objects.map(({ id }) => id)).toEqual(["a"]);
  expect(present.draft).toEqual(EMPTY_DRAFT);
});

test("an object is changed in its place", () => {
  const add: Action[] = ["a", "b"].map((id) => ({ type: "accept", object: object(id) }));
  const open = after(...add, { type: "reopen", id: "a" });
  expect(open.present.draft).toMatchObject({ editing: "a", points: [at(1)] });
  const saved = reduce(open, { type: "accept", object: object("a", 2) });
  expect(saved.present.objects.map(({ id, classId }) => [id, classId])).toEqual([
    ["a", 2],
    ["b", 1],
  ]);
});

test("deleting the object that is changed ends the change", () => {
  const { present } = after(
    { type: "accept", object: object("a") },
    { type: "reopen", id: "a" },
    { type: "delete", ids: ["a"] },
  );
  expect(present.draft).toEqual(EMPTY_DRAFT);
});

test("an answer to a suggestion becomes a draft of two clicks", () => {
  const { present } = after(
    { type: "suggest", suggestions: [suggestion("sure"), suggestion("unsure", [4, 3])] },
    { type: "answer", id: "unsure", label: "background" },
  );
  expect(present.draft.points).toEqual([at(2), { x: 4, y: 3, label: "background" }]);
  expect(present.suggestions.map(({ id }) => id)).toEqual(["sure"]);
});

test("the history has an end", () => {
  let document = EMPTY_DOCUMENT;
  for (let x = 0; x < 500; x++) document = reduce(document, { type: "point", point: at(x) });
  expect(document.past.length).toBe(200);
});
