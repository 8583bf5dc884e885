import { COMMANDS } from "./commands";
import { Modal } from "./Modal";

const SIGNS: Record<string, string> = {
  ArrowLeft: "←",
  ArrowRight: "→",
  ArrowUp: "↑",
  ArrowDown: "↓",
  PageDown: "Page ↓",
  PageUp: "Page ↑",
  Escape: "Esc",
};

const POINTER = [
  ["Move", "Preview the mask under the pointer"],
  ["Click", "Include the place"],
  ["Shift+click, right click", "Leave the place out"],
  ["Drag", "Draw a box around an object"],
  ["Wheel, pinch", "Zoom"],
  ["Space+drag, middle button", "Move the view"],
];

/** All keys, from the table that the keyboard uses. */
export function HelpDialog() {
  const groups = new Map<string, Map<string, string[]>>();
  for (const { group, keys, text } of COMMANDS) {
    const rows = groups.get(group) ?? groups.set(group, new Map()).get(group)!;
    // Rows such as the classes' and the arrows' are shown once.
    const name = text.replace(/^Class \d$/, "Class of new objects, and of the selected one");
    rows.set(name, [...(rows.get(name) ?? []), keys[0]]);
  }
  return (
    <Modal title="Keys">
      <div class="sheet">
        <Group title="Pointer" rows={POINTER.map(([keys, text]) => [text, keys])} />
        {[...groups].map(([title, rows]) => (
          <Group key={title} title={title} rows={[...rows].map(([text, keys]) => [text, keysText(keys)])} />
        ))}
      </div>
    </Modal>
  );
}

function Group({ title, rows }: { title: string; rows: string[][] }) {
  return (
    <section>
      <h3>{title}</h3>
      <dl>
        {rows.map(([text, keys]) => (
          <div key={text}>
            <dt>{text}</dt>
            <dd>
              <kbd>{keys}</kbd>
            </dd>
          </div>
        ))}
      </dl>
    </section>
  );
}

function keysText(keys: readonly string[]): string {
  const shown = keys.map((key) => key.replace(/\w+$/, (name) => SIGNS[name] ?? name));
  if (shown.length > 4) return `${shown[0]} … ${shown[shown.length - 1].slice(-1)}`;
  const prefix = /^(Shift|Alt)\+/.exec(shown[0])?.[0] ?? "";
  return shown.length === 1 ? shown[0] : prefix + shown.map((key) => key.slice(prefix.length)).join(" ");
}
