"""The demo: start the stack, segment a coin, write the result, stop.

python -m samserve.local.demo
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console

from samserve.client import Click, Client
from samserve.local.overlay import overlay
from samserve.local.process import StartFailed
from samserve.local.stack import StackOptions, running

IMAGE = Path("examples/coins.png")
CLICK = Click(213, 193)  # the middle of a coin in the third row
OUT = Path("build/demo")

console = Console(stderr=True, highlight=False)


def demo() -> None:
    """Segment the sample image twice: a cache miss, then a cache hit."""
    if not IMAGE.is_file():
        raise StartFailed(f"{IMAGE} not found; run the demo from the project's root")

    with (
        running(StackOptions(edge=False), lambda part: console.print(f"starting {part}")) as stack,
        Client(stack.addresses.decoder, stack.addresses.embedding) as client,
    ):
        first = client.segment(IMAGE, [CLICK])
        again = client.segment(IMAGE, [CLICK])

    caches = (first.cache.name, again.cache.name)
    if caches != ("MISS", "HIT"):
        raise StartFailed(f"expected MISS, then HIT; got {caches[0]}, then {caches[1]}")

    OUT.mkdir(parents=True, exist_ok=True)
    overlay(IMAGE, first.masks[0].array(), [CLICK], None, OUT / "overlay.png")
    (OUT / "result.json").write_text(json.dumps(first.as_json(), indent=1) + "\n")

    for name, answer in (("first click", first), ("the same click again", again)):
        total = sum(ms for stage, ms in answer.timings_ms.items() if "." not in stage)
        console.print(f"{name}: {answer.cache.name}, {total:.0f} ms in the server", style="green")

    best = first.masks[0]
    console.print(f"best mask: {best.area:,} pixels, predicted IoU {best.predicted_iou:.2f}")
    console.print(f"see {OUT / 'overlay.png'} and {OUT / 'result.json'}")


if __name__ == "__main__":
    try:
        demo()
    except StartFailed as problem:
        sys.exit(f"demo: {problem}")
