"""Benchmark of segmenting everything against SAM's way of doing it in PyTorch.

The peer computes what SAM's SamAutomaticMaskGenerator computes, with transformers' SamModel: the
grid in batches of 64 points, every mask scaled to the image's size, then thresholds, boxes, run
lengths and NMS. Both get the same weights and the same embedding, in the same run.

Also measures another caller's clicks while a sweep runs, against clicks on the quiet decoder.

    python -m loadtest.bench.everything [--photo FILE] [--megapixels 1] [--side 32] [--batch 64]
    PYTHONPATH=tests python -m loadtest.bench.everything --random

With `--random` the decoder and the embedding have SAM ViT-B's shapes and random values. The decoder
is the same for all of SAM's encoders. The threshold of the predicted IoU lets few candidates pass,
since noise takes much memory. That of the stability score is 0 and NMS is off: random masks are
unstable, and their boxes are all alike.

Writes build/bench/everything.json.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import skimage.data
import torch
from PIL import Image
from pycocotools import mask as coco
from samserve.bundles.bundle import Bundle, load_bundle
from samserve.bundles.names import SHIPPED
from samserve.core.cache_status import CacheStatus
from samserve.core.embedding import Embedding
from samserve.core.geometry import fit
from samserve.core.image_request import ImageRequest
from samserve.decoder.admission import DecodeQueue
from samserve.decoder.image_source import SourcedImage
from samserve.decoder.masks.write import Output
from samserve.decoder.registry import ModelRegistry
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.threads import Threads
from samserve.decoder.segmenter import Segmenter
from samserve.decoder.sweep.boxes import suppress
from samserve.decoder.sweep.grid import point_grid
from samserve.decoder.sweep.options import SweepOptions
from samserve.decoder.sweep.pool import SweepPool
from samserve.decoder.sweep.sweeper import Kept, Sweeper, SweepRequest
from samserve.infra.stages import StageClock
from samserve.training.network import graph_weights
from threadpoolctl import threadpool_limits
from transformers import SamConfig, SamModel

from loadtest.bench.decoder import clicks, embed
from loadtest.bench.report import Row, kilobytes, report

THREADS = 2
PEER = "SAM's generator in PyTorch"
BATCH = 64
QUIET_CLICKS = 60
BETWEEN_CLICKS = 0.1  # seconds

Masks = list[dict[str, Any]]  # run lengths as pycocotools has them


class Ours:
    """The decoder's parts in this process, over one image."""

    def __init__(self, decoder: MaskDecoder, embedding: Embedding) -> None:
        self._image = decoder.prepare(embedding)
        self._decoder = decoder
        self._pool = ThreadPoolExecutor(THREADS)
        queue = DecodeQueue(THREADS, 24)
        self.segmenter = Segmenter(self, ModelRegistry([decoder]), self._pool, queue)
        self.sweeper = Sweeper(self.segmenter, SweepPool(THREADS, queue.quiet))

    def version_served(self, model: object) -> str:
        return self._image.model_version

    async def find(self, *_: object) -> SourcedImage:
        return SourcedImage(self._image, CacheStatus.HIT, {})

    async def generate(self, options: SweepOptions) -> Masks:
        """Return all masks."""
        image = ImageRequest("public", "", None, image_id="0" * 64)
        request = SweepRequest(image, options, Output(rle=True))
        size = [self._image.size.height, self._image.size.width]
        return [
            {"size": size, "counts": event.mask.rle}
            async for event in self.sweeper.sweep(request, StageClock())
            if isinstance(event, Kept)
        ]

    async def click(self) -> float:
        """Answer a click; return its milliseconds."""
        (prompt,) = clicks(1, self._image.size)
        begin = time.perf_counter()
        model = self.segmenter.resolve("")
        await self.segmenter.answer(model, self._image, prompt, Output(rle=True), StageClock())
        return 1000 * (time.perf_counter() - begin)


class Peer:
    """SAM's generator: transformers' decoder, and SAM's steps on masks of the image's size."""

    def __init__(
        self,
        bundle: Bundle,
        embedding: Embedding,
        options: SweepOptions,
        batch: int = BATCH,
        model: SamModel | None = None,
    ) -> None:
        self._points_per_batch = batch
        self._model = model or sam_of(bundle)

        tensor = embedding.tensors["embedding"].astype(np.float32)
        self._embedding = torch.from_numpy(tensor)[None]
        self._size, self._inner = embedding.size, fit(embedding.size, bundle.frame)
        self._options = options

    @torch.no_grad()
    def predicted_iou(self, quantile: float) -> float:
        """Return a quantile of the predicted IoUs over a small grid."""
        points = point_grid(8) * (self._inner.width, self._inner.height)
        return float(self._ask(points).iou_scores.quantile(quantile))

    @torch.no_grad()
    def generate(self) -> Masks:
        """Return all masks."""
        points = point_grid(self._options.points_per_side)
        points = points * (self._inner.width, self._inner.height)
        rles: Masks = []
        boxes, scores = [], []
        for at in range(0, len(points), self._points_per_batch):
            masks, ious = self._batch(points[at : at + self._points_per_batch])
            for mask, iou in zip(masks, ious, strict=True):
                rles.append(coco.encode(np.asfortranarray(mask)))
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
                scores.append(iou)
        if not rles:
            return []
        kept = suppress(np.array(boxes), np.array(scores), self._options.box_nms_thresh)
        return [rles[index] for index in kept]

    def _batch(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        answer = self._ask(points)

        # SAM scales all masks before it drops any.
        logits, ious = answer.pred_masks[0].flatten(0, 1), answer.iou_scores[0].flatten()
        frame = torch.nn.functional.interpolate(
            logits[:, None], (1024, 1024), mode="bilinear", align_corners=False
        )
        frame = frame[..., : self._inner.height, : self._inner.width]
        size = (self._size.height, self._size.width)
        masks = torch.nn.functional.interpolate(frame, size, mode="bilinear", align_corners=False)[
            :, 0
        ]

        options = self._options
        good = ious > options.pred_iou_thresh
        masks, ious = masks[good], ious[good]
        offset = options.stability_score_offset
        certain = (masks > offset).flatten(1).sum(1)
        possible = (masks > -offset).flatten(1).sum(1)
        stable = certain / possible >= options.stability_score_thresh
        masks = (masks[stable] > 0).numpy().astype(np.uint8)
        filled = masks.any((1, 2))
        return masks[filled], ious[stable].numpy()[filled]

    def _ask(self, points: np.ndarray) -> Any:
        return self._model(
            image_embeddings=self._embedding,
            input_points=torch.from_numpy(points.astype(np.float32))[None, :, None],
            input_labels=torch.ones(1, len(points), 1).long(),
            multimask_output=True,
        )


def sam_of(bundle: Bundle) -> SamModel:
    """Return transformers' model with the bundle's decoder, and the smallest encoder possible."""
    encoder = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "mlp_dim": 32,
        "num_pos_feats": 128,
    }
    model = SamModel(SamConfig(vision_config=encoder)).eval()
    weights = graph_weights(bundle.decoder)
    shared = "shared_image_embedding.positional_embedding"
    weights[shared] = weights["prompt_encoder.shared_embedding.positional_embedding"]
    model.load_state_dict(weights, strict=False)
    return model


def random_sam(folder: Path) -> tuple[Bundle, SamModel]:
    from parity.random_models import bundle_of, sam  # in tests/

    model = sam(0)
    return bundle_of(model, "sam", folder), model


def random_embedding(embedding: Embedding) -> Embedding:
    from parity.random_models import image_of  # in tests/

    return replace(embedding, tensors=image_of("sam", 0))


def coins(megapixels: float) -> bytes:
    """Return scikit-image's coins, resized, as a PNG."""
    return scaled(Image.fromarray(skimage.data.coins()).convert("RGB"), megapixels)


def scaled(image: Image.Image, megapixels: float) -> bytes:
    """Return the image with this many pixels, as a PNG."""
    scale = math.sqrt(megapixels * 1e6 / (image.width * image.height))
    out = io.BytesIO()
    image.resize((round(image.width * scale), round(image.height * scale))).save(out, "PNG")
    return out.getvalue()


def peak(work: Callable[[], Masks]) -> tuple[Masks, float, float]:
    """Return the masks, the seconds, and the MiB that the process grew at most."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = kilobytes(os.getpid(), "VmRSS")
    begin = time.perf_counter()
    masks = work()
    seconds = time.perf_counter() - begin
    return masks, seconds, (kilobytes(os.getpid(), "VmHWM") - before) / 1024


def matched(masks: Masks, others: Masks) -> float:
    """Return the share of the masks that one of the others equals to an IoU of 0.95."""
    if not masks:
        return 1.0
    return float((coco.iou(masks, others, [0] * len(others)).max(1) >= 0.95).mean())


async def clicks_during(ours: Ours, options: SweepOptions) -> tuple[float, float]:
    """Return the p95 of clicks on the quiet decoder, and while a sweep runs, in milliseconds."""

    async def some(count: int, until: Callable[[], bool]) -> list[float]:
        times = []
        while len(times) < count and not until():
            times.append(await ours.click())
            await asyncio.sleep(BETWEEN_CLICKS)
        return times

    quiet = await some(QUIET_CLICKS, lambda: False)
    sweep = asyncio.create_task(ours.generate(options))
    busy = await some(10**6, sweep.done)
    await sweep
    quiet += await some(QUIET_CLICKS, lambda: False)
    return float(np.percentile(quiet, 95)), float(np.percentile(busy, 95))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photo", type=Path, help="an image file; else scikit-image's coins")
    parser.add_argument("--random", action="store_true", help="SAM ViT-B's shapes, random values")
    parser.add_argument("--megapixels", type=float, default=1)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=BATCH, help="the peer's points at once")
    parser.add_argument("--iou", type=float, default=0.7)
    parser.add_argument("--stability", type=float, default=0.9)
    chosen = parser.parse_args()

    threadpool_limits(1, "blas")
    torch.set_num_threads(THREADS)
    with TemporaryDirectory() as folder:
        compare(chosen, Path(folder))


def compare(chosen: argparse.Namespace, folder: Path) -> None:
    """Segment everything in both ways, and print the ratios."""
    nano = load_bundle(SHIPPED / "nano")
    image = Image.open(chosen.photo) if chosen.photo else Image.fromarray(skimage.data.coins())
    embedding = embed(nano, scaled(image.convert("RGB"), chosen.megapixels))
    bundle, model = random_sam(folder) if chosen.random else (nano, None)
    options = SweepOptions(
        points_per_side=chosen.side,
        pred_iou_thresh=chosen.iou,
        stability_score_thresh=chosen.stability,
    )
    if chosen.random:
        embedding = random_embedding(embedding)
        asked = Peer(bundle, embedding, options, chosen.batch, model).predicted_iou(0.995)
        options = replace(
            options, pred_iou_thresh=asked, stability_score_thresh=0.0, box_nms_thresh=1.0
        )

    ours = Ours(MaskDecoder(bundle, Threads(THREADS)), embedding)
    peer = Peer(bundle, embedding, options, chosen.batch, model)

    found, seconds, grown = peak(lambda: asyncio.run(ours.generate(options)))
    theirs, peer_seconds, peer_grown = peak(peer.generate)
    quiet, busy = asyncio.run(clicks_during(ours, options))

    name = f"{chosen.side} x {chosen.side} points, {chosen.megapixels:g} MP"
    name += ", random weights" if chosen.random else ""
    rows = [
        Row(f"{name}: time", seconds, "s", PEER, peer_seconds, "<= 0.20"),
        Row(f"{name}: peak memory", max(grown, 1), "MiB", PEER, peer_grown, "<= 0.25"),
        Row(f"{name}: our masks matched", matched(found, theirs), "", "all", 1, ">= 0.98"),
        Row(f"{name}: the peer's matched", matched(theirs, found), "", "all", 1, ">= 0.98"),
        Row("p95 of a click during a sweep", busy, "ms", "quiet", quiet, "<= 1.5"),
    ]
    report("everything", rows)
    print(f"{len(found)} masks, the peer {len(theirs)}; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
