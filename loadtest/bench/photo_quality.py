"""nano on real photos: the held-out split of a photo folder, by source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from samserve.training.evaluation import judged_masks
from samserve.training.photos import Photo, read_index
from samserve.training.prompts import tight_box

from loadtest.bench.outcomes import Outcome, Subject

FIELDS = ("first", "best", "box", "box_single", "corrected", "thrice")
TITLES = (
    "one click, first",
    "best of three",
    "tight box",
    "box, single mask",
    "two clicks",
    "three clicks",
)


def subjects(folder: Path) -> list[Subject]:
    """The held-out photos that have judged masks."""
    read = (subject(photo) for photo in read_index(folder / "heldout"))
    return [each for each in read if each.truths]


def subject(photo: Photo) -> Subject:
    """One photo with its judged masks and their tight boxes."""
    truths = judged_masks(photo)
    boxes = [tight_box(truth) for truth in truths]
    return Subject(photo.source, photo.path.read_bytes(), photo.image(), truths, boxes)


def means(outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
    """[len(FIELDS)] mean IoUs."""
    return np.mean([[getattr(o, field) for field in FIELDS] for o in outcomes], 0)


def sources(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Outcomes by source, in the sources' order."""
    names = sorted({outcome.source for outcome in outcomes})
    return {name: [o for o in outcomes if o.source == name] for name in names}


def source_means(outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
    """[len(FIELDS)] means of the sources' means: every source counts the same."""
    return np.mean([means(members) for members in sources(outcomes).values()], 0)


def table(outcomes: Sequence[Outcome]) -> Table:
    """Mean IoUs by source, of all masks, and of the sources' means."""
    drawn = Table("source", "masks", *TITLES, title="photos held out, mean IoU")
    for name, members in sources(outcomes).items():
        drawn.add_row(name, str(len(members)), *(f"{v:.3f}" for v in means(members)))
    drawn.add_section()
    drawn.add_row("all masks", str(len(outcomes)), *(f"{v:.3f}" for v in means(outcomes)))
    drawn.add_row("sources' means", "", *(f"{v:.3f}" for v in source_means(outcomes)))
    return drawn


def belief(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """Correlation of the predicted with the true IoU, and the mean absolute error."""
    predicted = np.array([outcome.predicted for outcome in outcomes])
    true = np.array([outcome.first for outcome in outcomes])
    return float(np.corrcoef(predicted, true)[0, 1]), float(np.abs(predicted - true).mean())
