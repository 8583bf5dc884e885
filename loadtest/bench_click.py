"""What a click costs through the whole stack, against the same model without a cache: `make bench`.

The peer is what a server does that keeps no embedding: decode the photo, encode it, decode the prompt, for each click,
in one process with the same ONNX files and all cores, without any wire. Writes build/bench/click.json.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table
from samserve.client import Click, Client
from samserve.core.config import BUNDLES
from samserve.core.embedding import Embedding
from samserve.core.image import Limits, frame_image
from samserve.decoder.mask_decoder import MaskDecoder
from samserve.decoder.prompt import Prompt
from samserve.decoder.segmenter import Output, write_mask
from samserve.local.stack import StackOptions, running
from samserve.models.bundle import Bundle, load_bundle

PHOTO = Path("examples/coins.png")
CLICK = (213.0, 193.0)
ROUNDS = 15


@dataclass(frozen=True, slots=True)
class Row:
    """One measured ratio: medians in milliseconds."""

    name: str
    value: float
    unit: str
    baseline: str
    baseline_value: float
    ratio: float
    goal: str
    holds: bool


class Uncached:
    """Encodes the photo anew for each click."""

    def __init__(self, bundle: Bundle) -> None:
        self._encoder = onnxruntime.InferenceSession(bundle.encoder, providers=["CPUExecutionProvider"])
        self._decoder = MaskDecoder(bundle, os.cpu_count() or 1)
        self._bundle = bundle

    def embed(self) -> Embedding:
        image = frame_image(PHOTO.read_bytes(), self._bundle.frame, Limits())
        valid = np.array([[image.valid.height, image.valid.width]], np.int32)
        (tensor,) = self._encoder.run(["embedding"], {"image": image.pixels[None], "valid": valid})
        return Embedding(self._bundle.model_version, image.size, {"embedding": tensor[0]})

    def decode(self, embedding: Embedding) -> None:
        click = Prompt(np.array([CLICK], np.float32), np.ones(1, np.float32), None, None, multimask=True)
        (candidates,) = self._decoder.decode(embedding, [click])
        for logits, iou in zip(candidates.logits, candidates.predicted_iou, strict=True):
            write_mask(logits, float(iou), embedding.size, self._bundle.frame, Output(rle=True))

    def click(self) -> None:
        self.decode(self.embed())


def milliseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)


def main() -> None:
    uncached = Uncached(load_bundle(BUNDLES / "nano"))
    known = uncached.embed()
    with running(StackOptions()) as stack, Client(stack.addresses.decoder, stack.addresses.embedding) as client:
        calls: dict[str, Callable[[], object]] = {
            "click over gRPC, image known": lambda: client.segment(PHOTO, [Click(*CLICK)]),
            "embed by id over gRPC, image known": lambda: client.embed(PHOTO),
            "the same click without a cache": uncached.click,
            "decoding and writing masks alone": lambda: uncached.decode(known),
        }
        for call in calls.values():
            call()
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(ROUNDS):  # in turn, so that the machine's moods hit all alike
            for name, call in calls.items():
                times[name].append(milliseconds(call))
    median = {name: statistics.median(taken) for name, taken in times.items()}
    click, by_id, peer, bare = median
    rows = [
        Row(click, median[click], "ms", peer, median[peer], median[click] / median[peer], "<= 0.5", False),
        Row(click, median[click], "ms", bare, median[bare], median[click] / median[bare], "<= 1.5", False),
        Row(by_id, median[by_id], "ms", peer, median[peer], median[by_id] / median[peer], "<= 0.1", False),
    ]
    rows = [Row(**{**asdict(row), "holds": row.ratio <= float(row.goal.split()[1])}) for row in rows]
    table = Table("what", "ms", "against", "ms ", "ratio", "goal")
    for row in rows:
        colour = "green" if row.holds else "red"
        numbers = (f"{row.value:.1f}", row.baseline, f"{row.baseline_value:.1f}")
        table.add_row(row.name, *numbers, f"[{colour}]{row.ratio:.2f}[/]", row.goal)
    Console().print(table)
    out = Path("build/bench/click.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    out.write_text(json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
