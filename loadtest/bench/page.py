"""Benchmark of the page in Debian's Chromium, headless, measured by the page itself.

Needs `chromium` and a built page (`make web`). Writes build/bench/page.json.
"""

from __future__ import annotations

import base64
import io
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from samserve.client import Client
from samserve.local.stack import StackOptions, running

from loadtest.bench.report import Row, report

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--enable-precise-memory-info")
HOVERS = 60
FIRSTS = 5
IMAGES = 10  # one after the other
LARGE = (4000, 3000)  # pixels
GOAL_MS = 100.0
GOAL_MIB = 1024.0
MINUTES = 60_000  # milliseconds

DROP = """([name, content]) => {
  const data = new DataTransfer();
  const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
  data.items.add(new File([bytes], name));
  document.body.dispatchEvent(new DragEvent('drop', { bubbles: true, dataTransfer: data }));
}"""


def photos(size: tuple[int, int]) -> Iterator[bytes]:
    """Yield images of this size that the stack has not seen."""
    rng = np.random.default_rng(3)
    photo = Image.fromarray(skimage.data.coffee()).resize(size)
    while True:
        pixels = np.asarray(photo).copy()
        pixels[:8, :8] = rng.integers(0, 256, (8, 8, 3))
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG", quality=90)
        yield out.getvalue()


class Visit:
    """A tab with the page."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        page.set_default_timeout(5 * MINUTES)
        page.goto(url)
        page.get_by_test_id("decoder").get_by_text("on this device").wait_for()
        self._names = 0

    def timings(self, kind: str) -> list[float]:
        found: list[float] = self.page.evaluate("kind => window.samserve.timings[kind]", kind)
        return found

    def drop(self, photo: bytes) -> None:
        """Drop an image, and wait until the pointer has shown its first mask."""
        self._names += 1
        before = len(self.timings("first"))
        content = base64.b64encode(photo).decode()
        self.page.evaluate(DROP, [f"{self._names}.jpg", content])
        self.page.locator(".dot.is-working").wait_for()
        self.page.locator(".dot.is-ready").wait_for()
        while len(self.timings("first")) == before:
            self.hover(self._names)

    def hover(self, index: int) -> None:
        before = len(self.timings("hover"))
        box: Any = self.page.locator("#stage").bounding_box()
        x = box["x"] + box["width"] * (0.3 + 0.4 * (index * 0.618 % 1))
        y = box["y"] + box["height"] * (0.3 + 0.4 * (index * 0.414 % 1))
        self.page.mouse.move(x, y)
        self.page.wait_for_function("n => window.samserve.timings.hover.length > n", arg=before)

    def mebibytes(self) -> float:
        """The tab's memory: of the page, its workers and its WebAssembly."""
        found: Any = self.page.evaluate("performance.measureUserAgentSpecificMemory()")
        return float(found["bytes"]) / 2**20


def resident(pid_name: str) -> float:
    """MiB that the largest renderer has in memory, images outside of JavaScript included."""
    sizes = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            command = status.with_name("cmdline").read_bytes()
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except (OSError, ValueError):
            continue
        if b"--type=renderer" in command and pid_name.encode() in command:
            sizes.append(int(lines["VmRSS"].split()[0]) / 1024)
    return max(sizes)


def main() -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("the benchmark of the page needs Chromium: apt-get install chromium")

    coins = Path("examples/coins.png").read_bytes()
    with (
        running(StackOptions()) as stack,
        Client(stack.addresses.decoder, stack.addresses.embedding) as client,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        visit = Visit(context.new_page(), stack.addresses.gateway)
        visit.drop(coins)
        for index in range(HOVERS):
            visit.hover(index)
        hover = statistics.median(visit.timings("hover")[-HOVERS:])

        small = photos((1024, 768))
        client.embed(next(small))  # the stack's own time, over gRPC
        embeds, firsts = [], []
        for _ in range(FIRSTS):
            started = time.perf_counter()
            client.embed(next(small))
            embeds.append(1000 * (time.perf_counter() - started))
            visit.drop(next(small))
            firsts.append(visit.timings("first")[-1])

        large = photos(LARGE)
        sizes, renderers = [], []
        for _ in range(IMAGES):
            visit.drop(next(large))
            sizes.append(visit.mebibytes())
            renderers.append(resident("--enable-precise-memory-info"))
        browser.close()

    embed, first = statistics.median(embeds), statistics.median(firsts)
    megapixels = LARGE[0] * LARGE[1] // 10**6
    early, late = max(renderers[1:4]), max(renderers[-3:])
    report(
        "page",
        [
            Row("hover to mask on the screen, p50", hover, "ms", "goal", GOAL_MS, "<= 1"),
            Row("drop to first mask", first, "ms", "embed over gRPC", embed, "<= 1.5"),
            Row(f"tab with {megapixels} MP", max(sizes), "MiB", "goal", GOAL_MIB, "<= 1"),
            Row("its process", max(renderers), "MiB", "goal", GOAL_MIB, "<= 1"),
            Row("process, images 8 to 10", late, "MiB", "images 2 to 4", early, "<= 1.1"),
        ],
    )


if __name__ == "__main__":
    main()
