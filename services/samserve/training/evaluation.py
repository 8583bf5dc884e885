"""Quality in PyTorch, to follow a run: `python -m samserve.training.evaluation CHECKPOINT`.

Asked as `make quality` asks through the whole stack: 1024 pixels, masks of 0.3% of the image or
more, at most three an image.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from samserve.training import prompts
from samserve.training.batches import normalised
from samserve.training.losses import first_ranked, true_iou
from samserve.training.network import FRAME, Nano
from samserve.training.photos import Bytes, Mask, Photo, read_index

SMALLEST = 0.003  # share of the image
MOST = 3  # masks an image
FIELDS = ("click", "click best", "box", "box best", "box single", "clicks", "clicks single")


def judged_masks(photo: Photo) -> list[Mask]:
    """The masks to ask for: large enough, at most three, always the same ones."""
    least = SMALLEST * photo.width * photo.height
    outlines = [outline for outline in photo.outlines if outline.area > least]
    random.Random(1).shuffle(outlines)  # noqa: S311
    return [outline.mask(photo.height, photo.width) for outline in outlines[:MOST]]


class Judge:
    """A model and one image, asked for masks of it."""

    def __init__(self, model: Nano, image: Bytes) -> None:
        height, width = image.shape[:2]
        self._scale = FRAME / max(height, width)
        self._size = (height, width)
        self._inner = (round(height * self._scale), round(width * self._scale))

        resized = cv2.resize(image, self._inner[::-1], interpolation=cv2.INTER_LINEAR)
        self._model = model
        model.decoder.set_window(FRAME, (0, 0))
        self._embedding = model.encode(normalised(np.asarray(resized, np.uint8), FRAME)[None])

    def ask(
        self, points: list[tuple[float, float]], labels: list[int], before: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Points in image pixels -> low-res logits [1, 4, 256, 256] and predicted IoU [1, 4]."""
        placed = torch.tensor([[[x * self._scale, y * self._scale] for x, y in points]])
        return self._model.decode(self._embedding, placed, torch.tensor([labels]).float(), before)

    def masks(self, logits: Tensor) -> Tensor:
        """Low-res logits [1, 4, 256, 256] -> [4, height, width] logits of the image's pixels."""
        full = F.interpolate(logits, (FRAME, FRAME), mode="bilinear", align_corners=False)
        inner = full[..., : self._inner[0], : self._inner[1]]
        return F.interpolate(inner, self._size, mode="bilinear", align_corners=False)[0]

    def measure(self, mask: Mask) -> tuple[list[float], tuple[float, float]]:
        """IoUs named by FIELDS; the predicted and the true IoU of the first click's mask."""
        wanted = torch.from_numpy(mask)

        def scores(logits: Tensor, ious: Tensor) -> tuple[int, Tensor, Tensor]:
            masks = self.masks(logits)
            return int(first_ranked(logits, ious)), true_iou(masks, wanted.expand_as(masks)), masks

        points, labels = [(*prompts.deepest(mask),), (0.0, 0.0)], [1, -1]
        logits, ious = self.ask(points, labels)
        first, click, masks = scores(logits, ious)
        believed = (float(ious[0, first]), float(click[first]))

        corners = prompts.tight_box(mask)
        box_answer = self.ask([(float(x), float(y)) for x, y in corners], [2, 3])
        boxed, box, _ = scores(*box_answer)

        chosen, clicks = first, click
        for _ in range(2):
            wrong = mask ^ (masks[chosen].numpy() > 0)
            x, y = prompts.deepest(wrong if wrong.any() else mask)
            points, labels = [(x, y), *points], [int(mask[int(y), int(x)]), *labels]
            logits, ious = self.ask(points, labels, logits[:, chosen][:, None])
            chosen, clicks, masks = scores(logits, ious)
        values = (
            click[first],
            click[1:].max(),
            box[boxed],
            box[1:].max(),
            box[0],
            clicks[chosen],
            clicks[0],
        )
        return [float(v) for v in values], believed


@torch.no_grad()
def evaluate(model: Nano, photos: list[Photo]) -> dict[str, list[float]]:
    """Count and mean IoUs by source, of all masks (ALL) and of the sources' means (MEAN)."""
    rows: dict[str, list[list[float]]] = defaultdict(list)
    believed = []
    for photo in photos:
        masks = judged_masks(photo)
        if masks:
            judge = Judge(model, photo.image())
            measured = [judge.measure(mask) for mask in masks]
            rows[photo.source] += [values for values, _ in measured]
            believed += [pair for _, pair in measured]
    means = {source: np.mean(values, 0) for source, values in sorted(rows.items())}
    table = {source: [float(len(rows[source])), *mean.tolist()] for source, mean in means.items()}
    every = [row for values in rows.values() for row in values]
    table["ALL"] = [float(len(every)), *np.mean(every, 0).tolist()]
    table["MEAN"] = [float(len(means)), *np.mean(list(means.values()), 0).tolist()]
    predicted, true = np.array(believed).T
    correlation = float(np.corrcoef(predicted, true)[0, 1])
    table["belief"] = [correlation, float(np.abs(predicted - true).mean())]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--split", default="heldout")
    parser.add_argument("--every", type=int, default=1, help="take every n-th photo")
    options = parser.parse_args()
    model = Nano().eval()
    model.load_state_dict(torch.load(options.checkpoint, weights_only=True)["mean"])
    table = evaluate(model, read_index(options.photos / options.split)[:: options.every])
    print(" " * 12, *(f"{field:>13}" for field in ("count", *FIELDS)))
    for name, values in table.items():
        print(f"{name:12}", *(f"{value:13.3f}" for value in values))


if __name__ == "__main__":
    main()
