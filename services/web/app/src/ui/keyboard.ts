/** Listens to keys for the whole page. */

import { grabbing } from "../view/gestures";
import { commandOf, dialog } from "./commands";

/** Elements that use plain keys themselves. */
const TYPING = "input:not([type=radio], [type=checkbox], [type=range]), textarea, select, [contenteditable]";
const PRESSED = "button, a, summary, input, label";

/** Listen to keys. Returns how to stop. */
export function attachKeyboard(): () => void {
  const down = (event: KeyboardEvent) => {
    const target = event.target as Element;
    if (dialog.value !== null || event.defaultPrevented || target.matches(TYPING)) return;
    const presses = event.key === "Enter" || event.key === " ";
    if (presses && target.closest(PRESSED)) return;
    if (event.key === " ") {
      event.preventDefault();
      grabbing.value = true;
      return;
    }
    // Arrow keys scroll lists, and choose among radio buttons.
    if (event.key.startsWith("Arrow") && target.matches("input, [role=listbox], .scrolls")) return;
    const command = commandOf(event);
    if (!command) return;
    event.preventDefault();
    command.run();
  };
  const up = (event: KeyboardEvent) => {
    if (event.key === " ") grabbing.value = false;
  };
  addEventListener("keydown", down);
  addEventListener("keyup", up);
  return () => {
    removeEventListener("keydown", down);
    removeEventListener("keyup", up);
  };
}
