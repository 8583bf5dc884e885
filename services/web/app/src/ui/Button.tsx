import type { ComponentChildren } from "preact";
import { Icon, type IconName } from "./Icon";

interface ButtonProps {
  /** What it does: its name for everybody, unless it has children. */
  label: string;
  icon?: IconName;
  /** The key that does the same. */
  keys?: string;
  onClick: () => void;
  pressed?: boolean;
  disabled?: boolean;
  kind?: "plain" | "primary" | "quiet" | "danger";
  children?: ComponentChildren;
}

/** A button with an icon, a text, or both. */
export function Button({ label, icon, keys, onClick, pressed, disabled, kind = "plain", children }: ButtonProps) {
  return (
    <button
      type="button"
      class={`button is-${kind} ${children ? "" : "is-icon"}`}
      aria-label={children ? undefined : label}
      aria-pressed={pressed}
      aria-keyshortcuts={keys?.replace("Ctrl", "Control")}
      title={keys ? `${label} (${keys})` : label}
      disabled={disabled}
      onClick={onClick}
    >
      {icon && <Icon name={icon} />}
      {children && <span>{children}</span>}
    </button>
  );
}
