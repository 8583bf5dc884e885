import { content } from "../store/workspace";
import { ClassList } from "./ClassList";
import { ObjectList } from "./ObjectList";
import { SuggestionPanel } from "./SuggestionPanel";

/** Classes, suggestions and objects. */
export function SidePanel() {
  return (
    <aside class="panel" aria-label="Labels">
      <ClassList />
      {content.value.suggestions.length > 0 && <SuggestionPanel />}
      <ObjectList />
    </aside>
  );
}
