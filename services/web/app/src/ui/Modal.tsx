import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { Button } from "./Button";
import { dialog } from "./commands";

/** A dialog over the page; Escape and a click beside it close it. */
export function Modal({ title, children }: { title: string; children: ComponentChildren }) {
  const element = useRef<HTMLDialogElement>(null);
  useEffect(() => element.current?.showModal(), []);
  const close = () => (dialog.value = null);
  return (
    <dialog
      ref={element}
      aria-labelledby="dialog-title"
      onClose={close}
      onClick={(event) => event.target === element.current && element.current?.close()}
    >
      <div class="dialog">
        <header class="row">
          <h2 id="dialog-title">{title}</h2>
          <span class="spring" />
          <Button label="Close" icon="close" keys="Escape" kind="quiet" onClick={() => element.current?.close()} />
        </header>
        {children}
      </div>
    </dialog>
  );
}
