"""How many clicks a person needs: plain clicking, and beside proposals.

`python -m loadtest.bench.annotating [--scenes 100] [--photos FOLDER]`, through the whole stack.

The person clicks at an object's deepest point, then in the middle of the largest error, with the
former answer's logits, until the mask has an IoU of DONE or MOST clicks were made. With proposals,
the one that fits an object best is looked at first. One of IoU DONE or more costs no click: it is
accepted with a key. One of WORTH or more is corrected from the point that found it. Every other
object is clicked as without. Prints a table and writes build/bench/annotating.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from samserve.client import Click, Client, Mask, Prompt
from samserve.client.everything import Record
from samserve.local.stack import StackOptions, running
from samserve.training import scenes
from samserve.training.prompts import deepest

from loadtest.bench.outcomes import Subject, Truth, corrective, iou
from loadtest.bench.photo_quality import subjects
from loadtest.bench.quality import scene
from loadtest.bench.report import Row, report

DONE = 0.9  # IoU
WORTH = 0.5  # IoU; a proposal with less is not corrected, the object is clicked instead
MOST = 20  # clicks for an object
SECONDS = 600.0  # for all proposals of an image


@dataclass(frozen=True, slots=True)
class Effort:
    """What one object took.

    Attributes:
        plain: Clicks without proposals.
        assisted: Clicks beside proposals.
        accepted: Whether a proposal was accepted with a key.
        sure: Whether that proposal was sorted as one that may be accepted unseen.
    """

    plain: int
    assisted: int
    accepted: bool
    sure: bool


def clicks_needed(
    client: Client, subject: Subject, truth: Truth, clicks: list[Click], mask: Mask | None
) -> int:
    """Return the clicks that a person makes for one object.

    Args:
        client: Of the stack.
        subject: The image.
        truth: The object.
        clicks: Given already, such as a proposal's point; they cost nothing.
        mask: The answer to them, or None before the first click.
    """
    points, made = list(clicks), 0
    while made < MOST:
        if mask is not None and iou(truth, mask.array()) >= DONE:
            return made
        points.append(Click(*deepest(truth)) if mask is None else corrective(truth, mask))
        made += 1
        logits = b"" if mask is None else mask.low_res_logits
        prompt = Prompt(points, mask_input=logits, multimask=not logits)
        mask = client.predict(subject.data, [prompt], low_res_logits=True).masks[0]
    return made


def efforts(client: Client, subject: Subject) -> list[Effort]:
    """Annotate one image both ways."""
    plain = [clicks_needed(client, subject, truth, [], None) for truth in subject.truths]
    proposals = client.using(timeout=SECONDS).propose(subject.data).records
    arrays = [record.mask.array() for record in proposals]

    found = []
    for truth, alone in zip(subject.truths, plain, strict=True):
        fits = [iou(truth, array) for array in arrays]
        best = int(np.argmax(fits)) if fits else -1
        record = proposals[best] if fits else None
        if record is None or fits[best] < WORTH:
            found.append(Effort(alone, alone, accepted=False, sure=False))
        elif fits[best] >= DONE:
            found.append(Effort(alone, 0, accepted=True, sure=record.sure))
        else:
            found.append(Effort(alone, _corrected(client, subject, truth, record), False, False))
    return found


def _corrected(client: Client, subject: Subject, truth: Truth, record: Record) -> int:
    """Return the clicks to correct a proposal; its logits come from asking at its point again."""
    start = Click(*record.point)
    masks = client.predict(subject.data, [Prompt([start])], low_res_logits=True).masks
    nearest = max(masks, key=lambda mask: iou(truth, mask.array()))
    return clicks_needed(client, subject, truth, [start], nearest)


def rows(name: str, found: Sequence[Effort]) -> list[Row]:
    """Return the means over all objects."""
    plain, assisted = (
        float(np.mean([getattr(each, field) for each in found])) for field in ("plain", "assisted")
    )
    accepted = sum(each.accepted for each in found)
    sure = sum(each.sure for each in found)
    print(f"{name}: {len(found)} objects, {accepted} proposals accepted, {sure} of them sure ones")
    return [Row(f"clicks for an object, {name}", assisted, "", "plain", plain, "<= 0.6")]


def annotate(
    client: Client, name: str, images: Iterable[Subject], count: int, minutes: float
) -> list[Row]:
    """Annotate a set of images, or as many as can begin in so many minutes."""
    progress = Console(stderr=True)
    last = time.monotonic() + 60 * minutes
    found: list[Effort] = []
    done = 0
    for subject in track(images, name, total=count, console=progress):
        if time.monotonic() > last:
            break
        found += efforts(client, subject)
        done += 1
    return rows(f"{name} ({done} of {count})", found)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--photos", type=Path, help="a folder with heldout/index.jsonl")
    parser.add_argument("--most", type=int, default=10**6, help="photos at most, evenly chosen")
    parser.add_argument("--minutes", type=float, default=60, help="for each set, at most")
    options = parser.parse_args()
    seeds = range(scenes.VALIDATION_SEED, scenes.VALIDATION_SEED + options.scenes)
    photos = subjects(options.photos) if options.photos else []
    photos = photos[:: max(1, -(-len(photos) // options.most))]

    with running(StackOptions()) as stack:
        addresses = stack.addresses
        with Client(addresses.decoder, addresses.embedding) as client:
            measured = annotate(
                client, "drawn scenes", map(scene, seeds), len(seeds), options.minutes
            )
            if photos:
                measured += annotate(client, "photos", photos, len(photos), options.minutes)
    report("annotating", measured)


if __name__ == "__main__":
    main()
