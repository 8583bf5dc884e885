import { dismiss, notices } from "../store/notices";
import { Button } from "./Button";

/** Sentences about what happened. */
export function Notices() {
  return (
    <div class="notices" role="status" aria-live="polite">
      {notices.value.map(({ id, kind, text }) => (
        <div key={id} class={`notice is-${kind}`}>
          <p>{text}</p>
          <Button label="Close the message" icon="close" kind="quiet" onClick={() => dismiss(id)} />
        </div>
      ))}
    </div>
  );
}
