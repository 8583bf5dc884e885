import { brushRadius, type Tool, tool } from "../store/workspace";
import { zoomAt } from "../view/gestures";
import { Button } from "./Button";
import { fitImage } from "./commands";
import type { IconName } from "./Icon";

const TOOLS: readonly { name: Tool; label: string; icon: IconName; keys: string }[] = [
  { name: "click", label: "Click", icon: "click", keys: "C" },
  { name: "box", label: "Box", icon: "box", keys: "B" },
  { name: "brush", label: "Brush", icon: "brush", keys: "P" },
  { name: "eraser", label: "Eraser", icon: "eraser", keys: "E" },
  { name: "select", label: "Select and move", icon: "select", keys: "V" },
];

export function ToolBar() {
  const brushing = tool.value === "brush" || tool.value === "eraser";
  return (
    <div class="tools" role="toolbar" aria-label="Tools" aria-orientation="vertical">
      {TOOLS.map(({ name, label, icon, keys }) => (
        <Button key={name} label={label} icon={icon} keys={keys} pressed={tool.value === name} onClick={() => (tool.value = name)} />
      ))}
      {brushing && (
        <input
          class="brush-size"
          type="range"
          min={2}
          max={200}
          value={brushRadius.value}
          aria-label="Radius of the brush in pixels of the screen"
          title={`Radius ${brushRadius.value} ([ and ])`}
          onInput={(event) => (brushRadius.value = Number(event.currentTarget.value))}
        />
      )}
      <span class="spring" />
      <Button label="Zoom in" icon="plus" keys="+" onClick={() => zoomAt(1.25)} />
      <Button label="Zoom out" icon="minus" keys="-" onClick={() => zoomAt(1 / 1.25)} />
      <Button label="Show the whole image" icon="fit" keys="0" onClick={fitImage} />
    </div>
  );
}
