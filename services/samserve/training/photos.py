"""A folder of photos with object masks: `SPLIT/index.jsonl` and the files that it names."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

DIVERSITY = {"coco_cc": 2.5, "facade": 0.8, "nuclei": 0.6, "pipes": 0.8}  # kinds of objects differ


@dataclass(frozen=True, slots=True)
class Outline:
    """One mask, still encoded: compressed COCO RLE, area in pixels, kind (object, part, region)."""

    counts: bytes
    area: int
    kind: str
    box: tuple[int, int, int, int]  # x, y, width, height

    def mask(self, height: int, width: int) -> Mask:
        """[height, width], decoded."""
        decoded: Bytes = coco.decode({"size": [height, width], "counts": self.counts})
        return decoded.astype(bool)


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo's file and its outlines."""

    path: Path
    source: str
    width: int
    height: int
    outlines: tuple[Outline, ...]

    def image(self) -> Bytes:
        """[height, width, 3] RGB."""
        return np.ascontiguousarray(_read(self.path, cv2.IMREAD_COLOR)[..., ::-1])

    def miniature(self) -> Bytes:
        """[height / 4, width / 4] grey, quicker to read."""
        return _read(self.path, cv2.IMREAD_REDUCED_GRAYSCALE_4)


def _read(path: Path, how: int) -> Bytes:
    read = cv2.imread(str(path), how)
    if read is None:
        raise ValueError(f"unreadable image {path}")
    return np.asarray(read, np.uint8)


def read_index(folder: Path) -> list[Photo]:
    """The photos of one split that have masks."""
    lines = (folder / "index.jsonl").read_text().splitlines()
    read = (_photo(folder, json.loads(line)) for line in lines)
    return [photo for photo in read if photo.outlines]


def _photo(folder: Path, row: dict[str, Any]) -> Photo:
    return Photo(
        path=folder / row["file"],
        source=row["source"],
        width=row["width"],
        height=row["height"],
        outlines=tuple(_outline(each) for each in row["masks"]),
    )


def _outline(row: dict[str, Any]) -> Outline:
    size, counts = row["rle"]["size"], row["rle"]["counts"].encode()
    x, y, w, h = (int(v) for v in coco.toBbox({"size": size, "counts": counts}))
    return Outline(counts, row["area"], row["kind"], (x, y, w, h))


def sampling_weights(photos: list[Photo]) -> NDArray[np.float64]:
    """[len(photos)] chances: a source counts by the square root of its photos and its diversity."""
    counts: dict[str, int] = defaultdict(int)
    for photo in photos:
        counts[photo.source] += 1
    weights = np.array(
        [DIVERSITY.get(p.source, 1.0) / np.sqrt(counts[p.source]) for p in photos], np.float64
    )
    return weights / weights.sum()


def difference_hash(grey: Bytes) -> Mask:
    """[256] bits: whether brightness grows from left to right, on a 16x17 miniature."""
    small = cv2.resize(grey, (17, 16), interpolation=cv2.INTER_AREA).astype(np.int16)
    return np.asarray(small[:, 1:] > small[:, :-1]).ravel()


def without_duplicates(
    photos: list[Photo], judged: list[Photo], *, extra: tuple[Bytes, ...] = (), bits: int = 18
) -> list[Photo]:
    """Photos that differ from every judged image in more than `bits` of the difference hash.

    extra: more judged images, grey [H, W] each.
    """
    greys = [*(photo.miniature() for photo in judged), *extra]
    hashes = np.stack([difference_hash(grey) for grey in greys])
    return [p for p in photos if (difference_hash(p.miniature()) ^ hashes).sum(1).min() > bits]
