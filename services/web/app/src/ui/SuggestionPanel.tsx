import {
  acceptSuggestions,
  acceptSure,
  answerSuggestion,
  currentSuggestion,
  rejectSuggestions,
  stepSuggestion,
} from "../store/sweeping";
import { content } from "../store/workspace";
import { Button } from "./Button";

/** Decides on suggestions, one by one or together. */
export function SuggestionPanel() {
  const { suggestions } = content.value;
  const current = currentSuggestion.value;
  const sure = suggestions.filter((each) => each.sure).length;
  const all = suggestions.map(({ id }) => id);
  if (!current) return null;
  const index = all.indexOf(current.id);
  return (
    <section class="suggestions" aria-labelledby="suggestions-title">
      <div class="row">
        <h2 id="suggestions-title">Suggestions</h2>
        <span class="muted" aria-live="polite">
          {index + 1} of {all.length}
        </span>
        <span class="spring" />
        <Button label="Previous suggestion" icon="previous" keys="Q" kind="quiet" onClick={() => stepSuggestion(-1)} />
        <Button label="Next suggestion" icon="next" keys="W" kind="quiet" onClick={() => stepSuggestion(1)} />
      </div>
      <p class="muted">
        Estimated IoU {Math.round(current.score * 100)}%{current.origin === "proposal" && (current.sure ? ", sure" : ", not sure")}
      </p>
      <div class="row">
        <Button label="Accept the suggestion" icon="check" kind="primary" keys="A" onClick={() => acceptSuggestions()}>
          Accept
        </Button>
        <Button label="Reject the suggestion" icon="close" keys="D" onClick={() => rejectSuggestions()}>
          Reject
        </Button>
      </div>
      {current.ask && (
        <div class="row">
          <span class="muted">Is “?” on it?</span>
          <Button label="The place with “?” belongs to it" keys="Shift+I" onClick={() => answerSuggestion("foreground")}>
            Yes
          </Button>
          <Button label="The place with “?” does not belong to it" keys="Shift+O" onClick={() => answerSuggestion("background")}>
            No
          </Button>
        </div>
      )}
      <div class="row wraps">
        {sure > 0 && sure < all.length && (
          <Button label="Accept all sure suggestions" keys="Shift+A" kind="quiet" onClick={acceptSure}>
            Accept {sure} sure
          </Button>
        )}
        <Button label="Accept all suggestions" kind="quiet" onClick={() => acceptSuggestions(all)}>
          Accept all
        </Button>
        <Button label="Reject all suggestions" kind="quiet" onClick={() => rejectSuggestions(all)}>
          Reject all
        </Button>
      </div>
    </section>
  );
}
