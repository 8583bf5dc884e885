import { useEffect, useRef, useState } from "preact/hooks";
import { Button } from "./Button";
import type { SavedImage } from "../store/saved";
import { currentKey, images, openImage, removeImage, step } from "../store/workspace";

/** The images, one beside the other. */
export function Strip() {
  const list = images.value;
  if (list.length < 2) return null;
  const index = list.findIndex(({ key }) => key === currentKey.value);
  return (
    <nav class="strip" aria-label="Images">
      <Button label="Previous image" icon="previous" keys="PageUp" disabled={index <= 0} onClick={() => step(-1)} />
      <ol class="scrolls">
        {list.map((image) => (
          <Thumbnail key={image.key} image={image} current={image.key === currentKey.value} />
        ))}
      </ol>
      <Button label="Next image" icon="next" keys="PageDown" disabled={index >= list.length - 1} onClick={() => step(1)} />
      <span class="muted count">
        {index + 1} / {list.length}
      </span>
    </nav>
  );
}

function Thumbnail({ image, current }: { image: SavedImage; current: boolean }) {
  const url = useObjectUrl(image.thumbnail);
  const element = useRef<HTMLLIElement>(null);
  useEffect(() => {
    if (current) element.current?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }, [current]);
  return (
    <li class={current ? "is-current" : ""} ref={element}>
      <button
        type="button"
        class="thumbnail"
        aria-current={current ? "true" : undefined}
        aria-label={image.name}
        title={image.name}
        onClick={() => void openImage(image.key)}
      >
        {url ? <img src={url} alt="" /> : <span class="name">{image.name}</span>}
      </button>
      <Button label={`Remove ${image.name} from the strip`} icon="close" kind="quiet" onClick={() => removeImage(image.key)} />
    </li>
  );
}

function useObjectUrl(blob: Blob | null): string | null {
  const [url, setUrl] = useState<string | null>(null);
  useEffect(() => {
    if (!blob) return;
    const made = URL.createObjectURL(blob);
    setUrl(made);
    return () => URL.revokeObjectURL(made);
  }, [blob]);
  return url;
}
