import type { LabeledObject } from "../document/content";
import { reopenObject } from "../store/prompting";
import { classes, classOf, content, dispatch, selected } from "../store/workspace";
import { Button } from "./Button";
import { hideAll } from "./commands";

/** The accepted objects, the newest first. */
export function ObjectList() {
  const { objects } = content.value;
  const allHidden = objects.length > 0 && objects.every(({ hidden }) => hidden);
  return (
    <section class="grows" aria-labelledby="objects-title">
      <div class="row">
        <h2 id="objects-title">Objects {objects.length > 0 && <span class="muted">{objects.length}</span>}</h2>
        <span class="spring" />
        {objects.length > 0 && (
          <Button label={allHidden ? "Show all" : "Hide all"} icon={allHidden ? "hidden" : "eye"} keys="H" kind="quiet" onClick={hideAll} />
        )}
      </div>
      {objects.length === 0 ? (
        <p class="muted">No objects yet. Click on one in the image, then press Enter.</p>
      ) : (
        <ul class="list scrolls" tabIndex={0} aria-label="Objects">
          {objects.map((object, index) => <ObjectRow key={object.id} object={object} number={index + 1} />).reverse()}
        </ul>
      )}
    </section>
  );
}

function ObjectRow({ object, number }: { object: LabeledObject; number: number }) {
  const { id, classId, hidden, area, score } = object;
  const { name, color } = classOf(classId);
  const active = selected.value === id;
  const label = `${name} ${number}`;
  const remove = () => {
    dispatch({ type: "delete", ids: [id] });
    if (active) selected.value = null;
  };
  return (
    <li class={`item ${active ? "is-active" : ""} ${hidden ? "is-hidden" : ""}`} data-object={id}>
      <span class="swatch" style={{ background: color }} aria-hidden="true" />
      <button type="button" class="item-main" aria-pressed={active} onClick={() => (selected.value = active ? null : id)}>
        <span class="name">{label}</span>
        <span class="muted">{score > 0 ? `${Math.round(score * 100)}` : sizeText(area)}</span>
      </button>
      {active && (
        <select
          aria-label={`Class of ${label}`}
          value={classId}
          onChange={(event) => dispatch({ type: "classify", ids: [id], classId: Number(event.currentTarget.value) })}
        >
          {classes.value.map((each) => (
            <option key={each.id} value={each.id}>
              {each.name}
            </option>
          ))}
        </select>
      )}
      <Button
        label={`${hidden ? "Show" : "Hide"} ${label}`}
        icon={hidden ? "hidden" : "eye"}
        kind="quiet"
        onClick={() => dispatch({ type: "hide", ids: [id], hidden: !hidden })}
      />
      <Button label={`Modify ${label}`} icon="edit" kind="quiet" onClick={() => reopenObject(id)} />
      <Button label={`Delete ${label}`} icon="trash" kind="quiet" onClick={remove} />
    </li>
  );
}

function sizeText(area: number): string {
  return area < 10_000 ? `${area} px` : `${Math.round(area / 1000)} kpx`;
}
