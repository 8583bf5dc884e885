import { pickFolder, pickImages } from "../image/pick";
import { sentenceOf } from "../server/failure";
import { notify } from "../store/notices";
import { model, place, theme, type Theme } from "../store/settings";
import { sweep, sweeping } from "../store/sweeping";
import { addImages, connection, content, dispatch, history, opened } from "../store/workspace";
import { Button } from "./Button";
import { dialog, openFiles, panelOpen } from "./commands";
import type { IconName } from "./Icon";

const THEMES: Record<Theme, { next: Theme; icon: IconName; label: string }> = {
  system: { next: "light", icon: "auto", label: "Colours: as the system" },
  light: { next: "dark", icon: "sun", label: "Colours: light" },
  dark: { next: "system", icon: "moon", label: "Colours: dark" },
};

const open = (pick: typeof pickImages) => () => {
  void pick()
    .then(addImages)
    .catch((error: unknown) => notify(sentenceOf(error), "error"));
};
openFiles.pick = open(pickImages);

export function TopBar() {
  const shown = THEMES[theme.value];
  const ready = opened.value !== null && sweeping.value === null;
  return (
    <header class="top">
      <span class="brand" translate={false}>
        samserve
      </span>
      <div class="group" role="group" aria-label="Images">
        <Button label="Open images" icon="open" keys="Ctrl+O" onClick={openFiles.pick} />
        <Button label="Open a folder" icon="folder" onClick={open(pickFolder)} />
      </div>
      <div class="group" role="group" aria-label="History">
        <Button label="Undo" icon="undo" keys="Ctrl+Z" disabled={history.value.past.length === 0} onClick={() => dispatch({ type: "undo" })} />
        <Button label="Redo" icon="redo" keys="Ctrl+Shift+Z" disabled={history.value.future.length === 0} onClick={() => dispatch({ type: "redo" })} />
      </div>
      <div class="group" role="group" aria-label="Suggestions">
        <Button label="Segment everything" icon="grid" keys="G" disabled={!ready} onClick={() => void sweep("everything")}>
          Everything
        </Button>
        <Button label="Suggest what is left" icon="spark" keys="S" disabled={!ready} onClick={() => void sweep("proposals")}>
          Suggest
        </Button>
      </div>
      <span class="spring" />
      <Settings />
      <div class="group" role="group" aria-label="Page">
        <Button label={shown.label} icon={shown.icon} onClick={() => (theme.value = shown.next)} />
        <Button label="Help" icon="help" keys="?" onClick={() => (dialog.value = "help")} />
        <span class="narrow-only">
          <Button
            label={`Objects (${content.value.objects.length})`}
            icon="panel"
            pressed={panelOpen.value}
            onClick={() => (panelOpen.value = !panelOpen.value)}
          />
        </span>
      </div>
      <Button label="Export or import" icon="export" kind="primary" keys="Ctrl+E" onClick={() => (dialog.value = "export")}>
        Export
      </Button>
    </header>
  );
}

/** Where masks are decoded, and by which model. */
function Settings() {
  const models = connection.models.value;
  const chosen = models.find(({ name }) => name === (model.value || models[0]?.name));
  const serverOnly = chosen?.browser === null;
  return (
    <div class="group settings">
      <fieldset class="switch">
        <legend class="muted">Decode on</legend>
        <label title={serverOnly ? chosen?.browserNote : undefined}>
          <input
            type="radio"
            name="place"
            checked={place.value === "device"}
            disabled={serverOnly}
            onChange={() => (place.value = "device")}
          />
          <span>this device</span>
        </label>
        <label>
          <input type="radio" name="place" checked={place.value === "server"} onChange={() => (place.value = "server")} />
          <span>the server</span>
        </label>
      </fieldset>
      {models.length > 0 && (
        <select aria-label="Model" value={connection.model || models[0].name} onChange={(event) => (model.value = event.currentTarget.value)}>
          {models.map(({ name }) => (
            <option key={name} value={name}>
              {name}
            </option>
          ))}
        </select>
      )}
    </div>
  );
}
