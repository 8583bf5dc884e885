import { useEffect, useState } from "preact/hooks";
import { droppedImages } from "../image/pick";
import { addImages, images, opened } from "../store/workspace";
import { sentenceOf } from "../server/failure";
import { notify } from "../store/notices";
import { dialog, panelOpen } from "./commands";
import { Empty } from "./Empty";
import { ExportDialog } from "./ExportDialog";
import { HelpDialog } from "./HelpDialog";
import { attachKeyboard } from "./keyboard";
import { MaskBar } from "./MaskBar";
import { Notices } from "./Notices";
import { SidePanel } from "./SidePanel";
import { Stage } from "./Stage";
import { StageStatus } from "./StageStatus";
import { StatusLine } from "./StatusLine";
import { Strip } from "./Strip";
import { ToolBar } from "./ToolBar";
import { TopBar } from "./TopBar";

export function App() {
  const [over, setOver] = useState(false);
  useEffect(attachKeyboard, []);
  useEffect(() => attachDrops(setOver), []);

  return (
    <div class={`app ${panelOpen.value ? "has-panel" : ""} ${over ? "is-over" : ""}`}>
      <TopBar />
      <main class="work">
        <h1 class="unseen">samserve: label images</h1>
        <ToolBar />
        <div class="middle">
          <Stage />
          {images.value.length === 0 && <Empty />}
          <StageStatus />
          {opened.value && <MaskBar />}
        </div>
        <SidePanel />
      </main>
      <Strip />
      <StatusLine />
      <Notices />
      {dialog.value === "help" && <HelpDialog />}
      {dialog.value === "export" && <ExportDialog />}
      {over && (
        <div class="drop-here" aria-hidden="true">
          Drop images or a folder
        </div>
      )}
    </div>
  );
}

/** Take images that are dropped on the page or pasted. */
function attachDrops(setOver: (over: boolean) => void): () => void {
  const take = (data: DataTransfer | null) => {
    if (!data) return;
    void droppedImages(data)
      .then(addImages)
      .catch((error: unknown) => notify(sentenceOf(error), "error"));
  };
  const over = (event: DragEvent) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    setOver(true);
  };
  const leave = (event: DragEvent) => {
    if (event.relatedTarget === null) setOver(false);
  };
  const drop = (event: DragEvent) => {
    event.preventDefault();
    setOver(false);
    take(event.dataTransfer);
  };
  const paste = (event: ClipboardEvent) => {
    if (event.clipboardData?.files.length) take(event.clipboardData);
  };
  addEventListener("dragover", over);
  addEventListener("dragleave", leave);
  addEventListener("drop", drop);
  addEventListener("paste", paste);
  return () => {
    removeEventListener("dragover", over);
    removeEventListener("dragleave", leave);
    removeEventListener("drop", drop);
    removeEventListener("paste", paste);
  };
}
