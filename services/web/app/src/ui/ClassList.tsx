import { useEffect, useRef, useState } from "preact/hooks";
import type { LabelClass } from "../document/classes";
import { activeClass, classes, content, deleteClass, editClass, newClass } from "../store/workspace";
import { Button } from "./Button";

/** The classes; new objects get the chosen one. */
export function ClassList() {
  const [name, setName] = useState("");
  const add = (event: Event) => {
    event.preventDefault();
    if (name.trim() === "") return;
    activeClass.value = newClass(name.trim()).id;
    setName("");
  };
  return (
    <section aria-labelledby="classes-title">
      <h2 id="classes-title">Classes</h2>
      <ul class="list">
        {classes.value.map((each, index) => (
          <ClassRow key={each.id} each={each} index={index} />
        ))}
      </ul>
      <form class="row add" onSubmit={add}>
        <input
          type="text"
          value={name}
          maxLength={64}
          placeholder="New class"
          aria-label="Name of a new class"
          onInput={(event) => setName(event.currentTarget.value)}
        />
        <button type="submit" class="button is-plain is-icon" aria-label="Add the class" title="Add the class">
          +
        </button>
      </form>
    </section>
  );
}

function ClassRow({ each: { id, name, color }, index }: { each: LabelClass; index: number }) {
  const [renaming, setRenaming] = useState(false);
  const count = content.value.objects.filter(({ classId }) => classId === id).length;
  const active = activeClass.value === id;
  return (
    <li class={`item ${active ? "is-active" : ""}`}>
      <input
        type="color"
        value={color}
        aria-label={`Colour of ${name}`}
        onInput={(event) => editClass(id, { color: event.currentTarget.value })}
      />
      {renaming ? (
        <NameInput id={id} name={name} onEnd={() => setRenaming(false)} />
      ) : (
        <button
          type="button"
          class="item-main"
          aria-pressed={active}
          title={index < 9 ? `New objects are “${name}” (Shift+${index + 1})` : `New objects are “${name}”`}
          onClick={() => (activeClass.value = id)}
        >
          <span class="name">{name}</span>
          <span class="muted">{count > 0 ? count : ""}</span>
        </button>
      )}
      <Button label={`Rename ${name}`} icon="edit" kind="quiet" onClick={() => setRenaming(true)} />
      <Button label={`Delete ${name}`} icon="trash" kind="quiet" onClick={() => deleteClass(id)} />
    </li>
  );
}

/** Takes a new name; Escape keeps the old one. */
function NameInput({ id, name, onEnd }: { id: number; name: string; onEnd: () => void }) {
  const element = useRef<HTMLInputElement>(null);
  useEffect(() => element.current?.select(), []);
  const save = (event: { currentTarget: HTMLInputElement }) => {
    const changed = event.currentTarget.value.trim();
    if (changed !== "") editClass(id, { name: changed });
    onEnd();
  };
  return (
    <input
      ref={element}
      type="text"
      class="item-main"
      defaultValue={name}
      maxLength={64}
      aria-label={`New name of ${name}`}
      onBlur={save}
      onKeyDown={(event) => {
        if (event.key === "Enter") save(event);
        if (event.key === "Escape") onEnd();
      }}
    />
  );
}
