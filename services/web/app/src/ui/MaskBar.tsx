import { isEmpty } from "../document/content";
import { acceptDraft, chosen, drawn, refine } from "../store/prompting";
import { background, candidates, content, dispatch, predicting, tool } from "../store/workspace";
import { Button } from "./Button";
import { choose, toggleSign } from "./commands";

/** What can be done with the mask in progress. */
export function MaskBar() {
  const { draft } = content.value;
  const empty = isEmpty(draft);
  const list = candidates.value;
  if (empty && tool.value !== "click") return null;
  return (
    <div class="mask-bar" role="group" aria-label="Mask in progress">
      {tool.value === "click" && (
        <div class="segments" role="group" aria-label="The next click">
          <Button label="Include" icon="plus" keys="X" pressed={!background.value} onClick={() => background.value && toggleSign()} />
          <Button label="Leave out" icon="minus" keys="X" pressed={background.value} onClick={() => !background.value && toggleSign()} />
        </div>
      )}
      {!empty && list.length > 1 && (
        <div class="segments" role="group" aria-label="Candidate">
          {list.map(({ candidate, predictedIou }, index) => (
            <Button
              key={candidate}
              label={`Candidate ${index + 1}, estimated IoU ${Math.round(predictedIou * 100)}%`}
              keys={String(index + 1)}
              pressed={draft.candidate === index}
              onClick={() => choose(index)}
            >
              {index + 1}
              <small>{Math.round(predictedIou * 100)}</small>
            </Button>
          ))}
        </div>
      )}
      {!empty && (
        <>
          <Button label="Refine" icon="refine" keys="R" disabled={!chosen.value} onClick={refine} />
          <Button label="Discard" icon="close" keys="Escape" onClick={() => dispatch({ type: "clear" })} />
          <Button label="Accept" icon="check" kind="primary" keys="Enter" disabled={predicting.value || !(chosen.value || drawn.value)} onClick={acceptDraft}>
            {draft.editing ? "Save" : "Accept"}
          </Button>
        </>
      )}
    </div>
  );
}
