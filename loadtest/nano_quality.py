"""Measure nano through the whole stack: `make quality`.

One click at each object's deepest point, on scikit-image's coins and on held-out drawn scenes; on the scenes also a
loose box, and a second, corrective click with the first answer's logits. Prints a table, writes `quality.json` and
pictures of the best and worst answers to build/quality.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from samserve.client import Box, Click, Client, Mask, Prompt
from samserve.local.stack import StackOptions, running
from samserve.training import scenes
from samserve.training.coins import coins
from samserve.training.prompts import deepest, loose_box
from samserve.training.train import SCENE, SMALLEST, VALIDATION_SEED

SHOWN = 12  # pictures of the best answers, and as many of the worst
TILE = 240  # pixels of a picture's side

Truth = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Outcome:
    """IoUs of one object's answers, and what it takes to draw the first."""

    first: float
    best: float
    box: float
    box_single: float
    corrected: float
    image: NDArray[np.uint8]
    truth: Truth
    answer: Truth
    click: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Goal:
    """A mean that must reach `least`."""

    name: str
    value: float
    least: float


def iou(one: Truth, other: Truth) -> float:
    """Intersection over union of two masks."""
    return float((one & other).sum() / max(1, (one | other).sum()))


def measure(
    client: Client, image: NDArray[np.uint8], labels: NDArray[np.integer], rng: np.random.Generator
) -> list[Outcome]:
    """Ask for every object of one picture that shows at 256 pixels."""
    objects = [labels == label for label in np.unique(labels)[1:]]
    objects = [truth for truth in objects if truth.sum() >= SMALLEST * truth.size]
    if not objects:
        return []
    data = _png(image)
    clicks = [deepest(truth) for truth in objects]
    boxes = [_box(rng, truth) for truth in objects]
    asked = [Prompt([Click(x, y)]) for x, y in clicks]
    asked += [Prompt(box=box) for box in boxes] + [
        Prompt(box=box, multimask=False) for box in boxes
    ]
    answers = client.predict(data, asked, low_res_logits=True).results
    count = len(objects)
    by_click, by_box, by_box_single = (
        answers[:count],
        answers[count : 2 * count],
        answers[2 * count :],
    )
    again = [
        Prompt([Click(*click), _corrective(truth, masks[0])], mask_input=masks[0].low_res_logits)
        for truth, masks, click in zip(objects, by_click, clicks, strict=True)
    ]
    corrected = client.predict(data, again).results
    return [
        Outcome(
            first=iou(truth, by_click[n][0].array()),
            best=max(iou(truth, mask.array()) for mask in by_click[n]),
            box=iou(truth, by_box[n][0].array()),
            box_single=iou(truth, by_box_single[n][0].array()),
            corrected=iou(truth, corrected[n][0].array()),
            image=image,
            truth=truth,
            answer=by_click[n][0].array(),
            click=clicks[n],
        )
        for n, truth in enumerate(objects)
    ]


def _corrective(truth: Truth, answer: Mask) -> Click:
    """The click a person would make next: in the middle of what is most wrong."""
    wrong = truth ^ answer.array()
    x, y = deepest(wrong if wrong.any() else truth)
    return Click(x, y, on=bool(truth[int(y), int(x)]))


def _box(rng: np.random.Generator, truth: Truth) -> Box:
    height, width = truth.shape
    corners = np.clip(loose_box(rng, truth), 0, (width, height))
    (x0, y0), (x1, y1) = corners.tolist()
    return Box(x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))


def _png(image: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG", compress_level=1)
    return out.getvalue()


def picture(outcome: Outcome) -> NDArray[np.uint8]:
    """[TILE, TILE, 3]: the answer tinted, the truth outlined in green, the click in red."""
    shown = outcome.image.copy()
    shown[outcome.answer] = (shown[outcome.answer] * 0.45 + np.array([30, 144, 255]) * 0.55).astype(
        np.uint8
    )
    outlines, _ = cv2.findContours(
        outcome.truth.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
    )
    cv2.drawContours(shown, outlines, -1, (0, 255, 0), 2)
    cv2.circle(shown, tuple(round(v) for v in outcome.click), 4, (255, 0, 0), -1)
    scale = TILE / max(shown.shape[:2])
    small = cv2.resize(shown, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    tile = np.zeros((TILE, TILE, 3), np.uint8)
    tile[: small.shape[0], : small.shape[1]] = small[:TILE, :TILE]
    cv2.putText(
        tile,
        f"{outcome.first:.2f}",
        (4, TILE - 6),
        cv2.FONT_HERSHEY_SIMPLEX,
        0.6,
        (255, 255, 255),
        2,
    )
    return tile


def sheet(outcomes: Sequence[Outcome], file: Path, columns: int = 6) -> None:
    """Write pictures side by side."""
    tiles = [picture(outcome) for outcome in outcomes]
    tiles += [np.zeros((TILE, TILE, 3), np.uint8)] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[n : n + columns]) for n in range(0, len(tiles), columns)]
    Image.fromarray(np.vstack(rows)).save(file)


def goals(on_coins: list[Outcome], on_scenes: list[Outcome]) -> list[Goal]:
    """The means that the issue of nano's making asks for."""

    def mean(outcomes: list[Outcome], field: str) -> float:
        return float(np.mean([getattr(outcome, field) for outcome in outcomes]))

    first = mean(on_scenes, "first")
    return [
        Goal("coins, one click, ranked first", mean(on_coins, "first"), 0.80),
        Goal("coins, one click, best of three", mean(on_coins, "best"), 0.90),
        Goal("scenes, one click, ranked first", first, 0.60),
        Goal("scenes, one click, best of three", mean(on_scenes, "best"), 0.72),
        Goal("scenes, box, ranked first", mean(on_scenes, "box"), 0.75),
        Goal("scenes, box, single mask", mean(on_scenes, "box_single"), 0.75),
        Goal("scenes, second corrective click", mean(on_scenes, "corrected"), first),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("build/quality"))
    options = parser.parse_args()
    console, rng = Console(), np.random.default_rng(0)
    seeds = range(VALIDATION_SEED, VALIDATION_SEED + options.scenes)
    on_scenes: list[Outcome] = []
    with (
        running(StackOptions()) as stack,
        Client(stack.addresses.decoder, stack.addresses.embedding) as client,
    ):
        on_coins = measure(client, *coins(), rng)
        for seed in track(seeds, "scenes", console=Console(stderr=True)):
            scene = scenes.draw(seed, SCENE)
            on_scenes += measure(client, scene.image, scene.labels, rng)
    options.out.mkdir(parents=True, exist_ok=True)
    ranked = sorted(on_scenes, key=lambda outcome: outcome.first)
    sheet(on_coins, options.out / "coins.png")
    sheet(ranked[::-1][:SHOWN], options.out / "best.png")
    sheet(ranked[:SHOWN], options.out / "worst.png")
    table = Table(
        "mean IoU",
        "value",
        "goal",
        title=f"{len(on_coins)} coins, {len(on_scenes)} objects in {len(seeds)} scenes",
    )
    reached = goals(on_coins, on_scenes)
    for goal in reached:
        colour = "green" if goal.value >= goal.least else "red"
        table.add_row(goal.name, f"[{colour}]{goal.value:.3f}[/]", f">= {goal.least:.2f}")
    console.print(table)
    rows = [
        {"name": g.name, "value": g.value, "goal": f">= {g.least:.3f}", "holds": g.value >= g.least}
        for g in reached
    ]
    (options.out / "quality.json").write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
