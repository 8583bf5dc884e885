"""What a person does on the page, and what the person sees."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, Route, expect
from stacks import CAP

PATIENCE = 1000 * CAP  # milliseconds; an end to tests that would wait forever

SWEEPS = re.compile("/(everything|proposals)$")

# How everything is segmented in tests: at a sixteenth of the points, so that more of them pass.
SWEEP = {"points_per_side": 8, "pred_iou_thresh": 0.6, "stability_score_thresh": 0.7}

DROP = """
([names, contents]) => {
  const data = new DataTransfer();
  names.forEach((name, index) => {
    const bytes = Uint8Array.from(atob(contents[index]), (each) => each.charCodeAt(0));
    data.items.add(new File([bytes], name));
  });
  document.body.dispatchEvent(new DragEvent('drop', { bubbles: true, dataTransfer: data }));
}
"""


@dataclass
class Annotator:
    """A person at the page.

    Attributes:
        page: The tab.
        requests: The method and path of what the page has sent to /v1, in order.
        uploads: How many images were sent as bytes.
        failures: Errors that no code of the page has caught.
    """

    page: Page
    requests: list[tuple[str, str]] = field(default_factory=list)
    uploads: int = 0
    failures: list[str] = field(default_factory=list)

    @classmethod
    def at(cls, page: Page, *, fewer_points: bool = True) -> Annotator:
        """Open the page.

        Args:
            page: The tab.
            fewer_points: Whether everything is segmented in a sixteenth of the time.
        """
        annotator = cls(page)
        if fewer_points:
            page.route(SWEEPS, _ask_at_fewer_points)
        page.set_default_timeout(PATIENCE)
        page.on("request", annotator._note)
        page.on("pageerror", lambda error: annotator.failures.append(str(error)))
        page.goto("/")
        return annotator

    def _note(self, request: Any) -> None:
        path = "/" + request.url.split("/", 3)[3]
        if path.startswith("/v1"):
            self.requests.append((request.method, path.partition("?")[0]))
        if request.headers.get("content-type") == "application/octet-stream":
            self.uploads += 1

    # Files.

    def drop(self, *files: Path | tuple[str, bytes], wait: bool = True) -> None:
        """Drop files on the page, and wait until prompts can be answered."""
        named = [
            (each.name, each.read_bytes()) if isinstance(each, Path) else each for each in files
        ]
        contents = [base64.b64encode(data).decode() for _, data in named]
        self.page.evaluate(DROP, [[name for name, _ in named], contents])
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        self.page.locator(".dot.is-ready").wait_for()

    def export(self, label: str = "COCO", *, choice: str = "") -> Path:
        """Export in a format; returns the file."""
        self.page.keyboard.press("Control+e")
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_role("radio", name=label).check()
        if choice:
            dialog.get_by_role("radio", name=choice).check()
        with self.page.expect_download() as download:
            dialog.get_by_role("button", name="Export", exact=True).click()
        return Path(download.value.path())

    def export_coco(self) -> Any:
        return json.loads(self.export().read_text())

    def import_coco(self, annotations: Any) -> None:
        self.page.keyboard.press("Control+e")
        with self.page.expect_file_chooser() as chooser:
            self.page.get_by_role("button", name="Import COCO").click()
        data = json.dumps(annotations).encode()
        file: Any = {"name": "a.json", "mimeType": "application/json", "buffer": data}
        chooser.value.set_files(file)

    # The pointer. Places are pixels of the image.

    def hover(self, x: float, y: float) -> None:
        """Move the pointer over the image, and wait for the mask under it."""
        before = self.count("hover")
        self.page.mouse.move(*self.window(x, y))
        self.page.wait_for_function(
            "before => window.samserve.timings.hover.length > before", arg=before
        )

    def click(self, x: float, y: float, *, leave_out: bool = False) -> None:
        """Click, and wait for the mask."""
        before = self.count("click")
        button: Any = "right" if leave_out else "left"
        self.page.mouse.click(*self.window(x, y), button=button)
        self.page.wait_for_function(
            "before => window.samserve.timings.click.length > before", arg=before
        )

    def draw(self, *places: tuple[float, float]) -> None:
        """Press the button at the first place, and let it go at the last."""
        first, *rest = [self.window(*place) for place in places]
        self.page.mouse.move(*first)
        self.page.mouse.down()
        for place in rest:
            self.page.mouse.move(*place, steps=4)
        self.page.mouse.up()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def accept(self) -> None:
        """Accept the mask in progress, once it is there."""
        before = len(self.objects())
        bar = self.page.get_by_role("group", name="Mask in progress")
        expect(bar.get_by_role("button", name="Accept")).to_be_enabled(timeout=PATIENCE)
        self.press("Enter")
        expect(self.page.locator("[data-object]")).to_have_count(before + 1, timeout=PATIENCE)

    def add_class(self, name: str) -> None:
        """Add a class; new objects have it."""
        self.page.get_by_role("textbox", name="Name of a new class").fill(name)
        self.page.keyboard.press("Enter")
        self.page.locator("#stage").focus()

    def choose_place(self, name: str) -> None:
        """Decode on "this device" or "the server"."""
        self.page.get_by_role("radio", name=name).check(force=True)
        self.wait_until_ready()
        self.page.locator("#stage").focus()

    def wait_for_uploads(self, count: int) -> None:
        """Wait until so many images were sent as bytes."""
        give_up = time.monotonic() + CAP
        while self.uploads < count:
            assert time.monotonic() < give_up
            self.page.wait_for_timeout(50)  # in which events are read

    # What is seen.

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    def objects(self) -> list[str]:
        """The names in the list of objects, the newest first."""
        return self.page.locator("[data-object] .name").all_text_contents()

    def count(self, kind: str) -> int:
        return int(self.page.evaluate("kind => window.samserve.timings[kind].length", kind))

    def wait_for_sentence(self, text: str) -> str:
        """Wait for a sentence that begins so; returns it."""
        found = self.page.locator(".notice p, .chip span").filter(has_text=text).first
        found.wait_for()
        sentence = found.text_content() or ""
        assert sentence.endswith(".")
        return sentence

    @contextmanager
    def expect_requests(self, *expected: str) -> Iterator[None]:
        """Nothing but requests to these routes is sent in the block."""
        before = len(self.requests)
        yield
        routes = {path.rsplit("/", 1)[1] for _, path in self.requests[before:]}
        assert routes == set(expected)

    def window(self, x: float, y: float) -> Sequence[float]:
        place: list[float] = self.page.evaluate(
            "([x, y]) => window.samserve.toWindow(x, y)", [x, y]
        )
        return place


def _ask_at_fewer_points(route: Route) -> None:
    asked = json.loads(route.request.post_data or "{}")
    route.continue_(post_data=json.dumps({**asked, **SWEEP}))
