"""Measure nano through the whole stack: `make quality`, `make quality PHOTOS=../shared/photos`.

One click at each object's deepest point, on scikit-image's coins, on held-out drawn scenes and,
with PHOTOS, on held-out photos; a box; then two corrective clicks with the former answer's logits.
Prints tables, writes `quality.json` and pictures to build/quality.
"""

from __future__ import annotations

import argparse
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from samserve.client import Client
from samserve.local.stack import StackOptions, running
from samserve.training import scenes
from samserve.training.coins import coins
from samserve.training.prompts import loose_box

from loadtest.bench.outcomes import Outcome, Subject, measure
from loadtest.bench.photo_quality import FIELDS, belief, means, source_means, subjects, table
from loadtest.bench.sheets import by_source, sheet

SHOWN = 12  # pictures of the best answers on scenes, and as many of the worst
SMALLEST = 60 / 256**2  # an object's least share of a scene

Labels = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Goal:
    """A value that must reach `least`, or at most `most`."""

    name: str
    value: float
    least: float = -np.inf
    most: float = np.inf

    @property
    def holds(self) -> bool:
        return self.least <= self.value <= self.most

    @property
    def bound(self) -> str:
        return f">= {self.least:.2f}" if np.isinf(self.most) else f"<= {self.most:.2f}"


def drawn(source: str, image: NDArray[np.uint8], labels: Labels, seed: int) -> Subject:
    """An image whose objects are labelled, with a loose box each."""
    truths = [labels == label for label in np.unique(labels)[1:]]
    truths = [truth for truth in truths if truth.sum() >= SMALLEST * truth.size]
    rng, size = np.random.default_rng(seed), labels.shape[::-1]
    boxes = [np.clip(loose_box(rng, truth), 0, size) for truth in truths]
    return Subject(source, _png(image), image, truths, boxes)


def scene(seed: int) -> Subject:
    """A drawn scene."""
    picture = scenes.draw(seed)
    return drawn("scenes", picture.image, picture.labels, seed)


def _png(image: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG", compress_level=1)
    return out.getvalue()


def drawn_goals(on_coins: list[Outcome], on_scenes: list[Outcome]) -> list[Goal]:
    """Goals on the coins and on drawn scenes."""
    coin, drawing = (dict(zip(FIELDS, means(o), strict=True)) for o in (on_coins, on_scenes))
    return [
        Goal("coins, one click, ranked first", coin["first"], 0.90),
        Goal("coins, one click, best of three", coin["best"], 0.90),
        Goal("scenes, one click, ranked first", drawing["first"], 0.60),
        Goal("scenes, one click, best of three", drawing["best"], 0.69),
        Goal("scenes, box, ranked first", drawing["box"], 0.66),
        Goal("scenes, box, single mask", drawing["box_single"], 0.67),
        Goal("scenes, two clicks", drawing["corrected"], drawing["first"]),
    ]


def photo_goals(on_photos: list[Outcome]) -> list[Goal]:
    """Goals on held-out photos."""
    every, source = (
        dict(zip(FIELDS, values, strict=True))
        for values in (means(on_photos), source_means(on_photos))
    )
    correlation, error = belief(on_photos)
    return [
        Goal("photos, one click, ranked first", every["first"], 0.64),
        Goal("photos, one click, ranked first, sources' mean", source["first"], 0.60),
        Goal("photos, one click, best of three", every["best"], 0.71),
        Goal("photos, one click, best of three, sources' mean", source["best"], 0.66),
        Goal("photos, tight box, ranked first", every["box"], 0.77),
        Goal("photos, tight box, ranked first, sources' mean", source["box"], 0.70),
        Goal("photos, three clicks", every["thrice"], 0.74),
        Goal("photos, predicted IoU, correlation", correlation, 0.60),
        Goal("photos, predicted IoU, mean error", error, most=0.15),
    ]


def goal_table(goals: list[Goal], title: str) -> Table:
    """Values beside their goals."""
    shown = Table("measure", "value", "goal", title=title)
    for goal in goals:
        colour = "green" if goal.holds else "red"
        shown.add_row(goal.name, f"[{colour}]{goal.value:.3f}[/]", goal.bound)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--photos", type=Path, help="a folder with heldout/index.jsonl")
    parser.add_argument("--out", type=Path, default=Path("build/quality"))
    options = parser.parse_args()
    console, progress = Console(width=140), Console(stderr=True)
    seeds = range(scenes.VALIDATION_SEED, scenes.VALIDATION_SEED + options.scenes)
    photos = subjects(options.photos) if options.photos else []

    on_scenes: list[Outcome] = []
    on_photos: list[Outcome] = []
    with running(StackOptions()) as stack:
        addresses = stack.addresses
        with Client(addresses.decoder, addresses.embedding) as client:
            on_coins = measure(client, drawn("coins", *coins(), seed=0))
            for seed in track(seeds, "scenes", console=progress):
                on_scenes += measure(client, scene(seed))
            for photo in track(photos, "photos", console=progress):
                on_photos += measure(client, photo)

    options.out.mkdir(parents=True, exist_ok=True)
    ranked = sorted(on_scenes, key=lambda outcome: outcome.first)
    sheet(on_coins, options.out / "coins.png")
    sheet(ranked[::-1][:SHOWN], options.out / "best.png")
    sheet(ranked[:SHOWN], options.out / "worst.png")
    goals = drawn_goals(on_coins, on_scenes)
    if on_photos:
        sheet(by_source(on_photos), options.out / "photos.png", columns=3)
        console.print(table(on_photos))
        goals += photo_goals(on_photos)
    counts = (
        f"{len(on_coins)} coins, {len(on_scenes)} objects in {len(seeds)} scenes, "
        f"{len(on_photos)} masks in {len(photos)} photos"
    )
    console.print(goal_table(goals, counts))
    rows = [
        {"name": g.name, "value": g.value, "goal": g.bound, "holds": bool(g.holds)} for g in goals
    ]
    (options.out / "quality.json").write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
