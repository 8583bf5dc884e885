import { hoverMedian } from "../store/timings";
import { connection, content, images, opened, saving } from "../store/workspace";
import { pointer } from "../view/gestures";
import { view } from "../view/viewport";

const BACKENDS = { wasm: "WebAssembly", webgpu: "WebGPU", server: "the server" } as const;
const SAVING = { saved: "Saved in this browser", saving: "Saving", off: "Not saved" } as const;

/** Facts about the image, the decoder and the page's own speed. */
export function StatusLine() {
  const facts = connection.facts.value;
  const image = opened.value;
  const place = pointer.value;
  return (
    <footer class="status">
      <span class={`dot is-${connection.stage.value.kind}`} aria-hidden="true" />
      <span data-testid="decoder">{facts ? decoderText(facts.backend, facts.threads, facts.model) : "No decoder yet"}</span>
      {hoverMedian.value !== null && (
        <span data-testid="hover" title="Median time from a move of the pointer to the mask on the screen">
          Hover {Math.round(hoverMedian.value)} ms
        </span>
      )}
      <span class="spring" />
      {image && (
        <>
          <span class="wide-only">{place ? `${Math.floor(place.x)}, ${Math.floor(place.y)}` : ""}</span>
          <span>
            {image.levels.width} × {image.levels.height}
          </span>
          <span class="wide-only">{Math.round(view.value.scale * 100)}%</span>
          <span class="wide-only">
            {content.value.objects.length} {content.value.objects.length === 1 ? "object" : "objects"}
          </span>
        </>
      )}
      {images.value.length > 0 && <span data-testid="saving">{SAVING[saving.value]}</span>}
    </footer>
  );
}

function decoderText(backend: keyof typeof BACKENDS, threads: number, model: string): string {
  if (backend === "server") return `${model} on the server`;
  const parallel = backend === "wasm" ? `, ${threads} ${threads === 1 ? "thread" : "threads"}` : "";
  return `${model} on this device: ${BACKENDS[backend]}${parallel}`;
}
