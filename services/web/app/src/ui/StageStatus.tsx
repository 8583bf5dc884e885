import { cancelSweep, sweeping } from "../store/sweeping";
import { connection, openAgain } from "../store/workspace";
import { Button } from "./Button";

/** How far the work on the image is. */
export function StageStatus() {
  const { kind, text, share } = connection.stage.value;
  const sweep = sweeping.value;
  return (
    <div class="stage-status" aria-live="polite">
      {(kind === "working" || kind === "waiting" || kind === "failed") && (
        <div class={`chip is-${kind}`}>
          {kind === "working" && <span class="spinner" aria-hidden="true" />}
          <span>{kind === "working" ? `${text}…` : text}</span>
          {kind === "failed" && (
            <Button label="Try again" kind="quiet" onClick={openAgain}>
              Try again
            </Button>
          )}
          {share !== null && <progress value={share} max={1} aria-label={text} />}
        </div>
      )}
      {sweep && (
        <div class="chip is-working">
          <span>{sweep.kind === "everything" ? "Segmenting everything" : "Looking for what is left"}</span>
          <progress
            value={sweep.points > 0 ? sweep.done / sweep.points : undefined}
            max={1}
            aria-label={sweep.kind === "everything" ? "Points of everything" : "Points of suggestions"}
          />
          <Button label="Cancel" icon="close" keys="Escape" kind="quiet" onClick={cancelSweep} />
        </div>
      )}
    </div>
  );
}
