import { pickFolder, pickImages } from "../image/pick";
import { addImages } from "../store/workspace";
import { Button } from "./Button";

/** What is shown before there is an image. */
export function Empty() {
  return (
    <section class="empty" aria-labelledby="empty-title">
      <h2 id="empty-title">Drop an image to begin</h2>
      <p>
        Move the pointer over an object to see its mask. Click to start, Enter to accept. Images go only to this page’s own
        server; masks are decoded on this device.
      </p>
      <div class="row">
        <Button label="Open images" icon="open" kind="primary" keys="Ctrl+O" onClick={() => void pickImages().then(addImages)}>
          Open images
        </Button>
        <Button label="Open a folder" icon="folder" onClick={() => void pickFolder().then(addImages)}>
          Open a folder
        </Button>
      </div>
      <p class="muted">You can also paste an image. JPEG, PNG, WebP, BMP and GIF.</p>
    </section>
  );
}
