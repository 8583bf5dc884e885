/** The classes of objects, shared by all images. */

export interface LabelClass {
  id: number;
  name: string;
  /** #rrggbb */
  color: string;
}

/** Colours that are told apart on light and dark images, also by most people with a colour blindness. */
export const PALETTE = [
  "#3b82f6",
  "#f59e0b",
  "#10b981",
  "#ec4899",
  "#8b5cf6",
  "#ef4444",
  "#14b8a6",
  "#eab308",
  "#6366f1",
  "#84cc16",
];

export const FIRST_CLASSES: readonly LabelClass[] = [{ id: 1, name: "object", color: PALETTE[0] }];

/** Add a class; a name that exists is not added twice. Returns all classes and the one of this name. */
export function addClass(classes: readonly LabelClass[], name: string): [readonly LabelClass[], LabelClass] {
  const known = classes.find((each) => each.name === name);
  if (known) return [classes, known];
  const id = Math.max(0, ...classes.map((each) => each.id)) + 1;
  const unused = PALETTE.find((color) => !classes.some((each) => each.color === color));
  const added = { id, name, color: unused ?? PALETTE[id % PALETTE.length] };
  return [[...classes, added], added];
}

/** Change a class's name or colour. */
export function changeClass(
  classes: readonly LabelClass[],
  id: number,
  changed: Partial<Omit<LabelClass, "id">>,
): readonly LabelClass[] {
  return classes.map((each) => (each.id === id ? { ...each, ...changed } : each));
}
