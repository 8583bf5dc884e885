import { useState } from "preact/hooks";
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
      <Button label={`Rename ${name}`} icon="edit" kind="quiet" onClick={() => rename(id, name)} />
      <Button label={`Delete ${name}`} icon="trash" kind="quiet" onClick={() => deleteClass(id)} />
    </li>
  );
}

function rename(id: number, before: string): void {
  const name = prompt("Name of the class", before)?.trim();
  if (name) editClass(id, { name });
}
