"""Train nano from a seed: `make nano PHOTOS=../shared/photos`.

Windows of 256 and 384 pixels of the 1024-pixel frame teach small objects; windows of up to the
whole frame then teach large objects and the IoU head. Two processes of one thread each take half of
every step. The schedule goes by a worker's processor time: other work slows a run without changing
it. The run writes `checkpoint.pt` every few minutes and goes on from it when restarted.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from samserve.bundles.names import SHIPPED
from samserve.training import prompts
from samserve.training.batches import Sampler
from samserve.training.coins import coins
from samserve.training.encoder import STRIDE, imagenet_checkpoint, load_imagenet
from samserve.training.losses import PixelFeatures, Weights, step_loss
from samserve.training.network import DECODER_PARTS, FRAME, Nano, bundle_weights
from samserve.training.photos import Photo, read_index, without_duplicates

WORKERS = 2  # processes of one thread each
PEAK = 5e-4  # learning rate of new layers
FALLS = 0.5  # share of the run from which the learning rate falls, in a straight line to zero
PRETRAINED = {"vision_encoder.backbone": 0.3, "mask_decoder": 0.5, "prompt_encoder": 0.5}
WARM_UP = 150  # steps
DECAY = 0.02
REMEMBERED = 0.998  # share of the weights' running mean that a step keeps, late in a run
RECENT = 8  # early in a run, the mean spans the last RECENT-th of its steps
SAVED_EVERY = 4.0  # minutes by the clock
CORRECTED = 0.35  # share of steps with corrective clicks
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True, slots=True)
class View:
    """Size of a step: window side in frame pixels, images and prompts an image, per worker."""

    side: int
    images: int
    count: int


@dataclass(frozen=True, slots=True)
class Stage:
    """until: share of the run at which the stage ends; views are drawn from by `chances`."""

    until: float
    views: tuple[View, ...]
    chances: tuple[float, ...]
    weights: Weights


TINY, SMALL, MIDDLE = View(256, 6, 4), View(384, 3, 5), View(512, 2, 5)
LARGE, WHOLE = View(768, 1, 6), View(1024, 1, 5)
STAGES = (
    Stage(0.25, (TINY, SMALL), (0.7, 0.3), Weights(iou=0.5, pixels=0.3)),
    Stage(0.60, (SMALL, MIDDLE, WHOLE), (0.3, 0.4, 0.3), Weights(iou=1.0, pixels=0.0)),
    Stage(1.01, (MIDDLE, LARGE, WHOLE), (0.35, 0.3, 0.35), Weights(iou=3.0, pixels=0.0)),
)


@dataclass(frozen=True, slots=True)
class Run:
    """Options of a run.

    Attributes:
        photos: Folder with `train` and `heldout`.
        out: Folder of the checkpoint.
        minutes: Processor time of each worker in all, earlier sittings included.
        seed: Of the weights, the samples and the augmentation.
    """

    photos: Path
    out: Path
    minutes: float
    seed: int


@dataclass(slots=True)
class Progress:
    """State of a run: steps and processor minutes so far, and the mean loss of each stretch."""

    step: int = 0
    minutes: float = 0.0
    losses: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """One worker's copy of the model, its running mean and the optimizer."""

    def __init__(self, run: Run) -> None:
        torch.manual_seed(run.seed)
        self.seed = run.seed
        self.model = Nano()
        self.mean = Nano()
        self.features = PixelFeatures()
        self.progress = Progress()

        # The encoder starts from ImageNet weights, the decoder from the shipped bundle.
        load_imagenet(self.model.vision_encoder.backbone, imagenet_checkpoint())
        self.model.vision_encoder.backbone.freeze_early()
        self.model.load(bundle_weights(SHIPPED / "nano"), parts=DECODER_PARTS)
        self.mean.load_state_dict(self.model.state_dict())
        self.model.vision_encoder.to(memory_format=torch.channels_last)

        named = [*self.model.named_parameters(), *self.features.named_parameters()]
        named = [(n, p) for n, p in named if p.requires_grad and not n.startswith("decoder.")]
        self.parameters = [parameter for _, parameter in named]
        self.optimizer = torch.optim.AdamW(
            parameter_groups(named), lr=PEAK, weight_decay=DECAY, fused=True
        )

    def update(self, loss: Tensor, done: float) -> None:
        """One step of all workers together."""
        # The learning rate rises, stays, and falls to zero.
        warm, left = (self.progress.step + 1) / WARM_UP, (1 - done) / (1 - FALLS)
        rate = PEAK * max(0.0, min(1.0, warm, left))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]

        self.optimizer.zero_grad()
        loss.backward()
        share_gradients(self.parameters)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()

        # The running mean forgets the first steps sooner.
        self.progress.step += 1
        moved = max(1 - REMEMBERED, RECENT / (self.progress.step + RECENT))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.mean.parameters()), list(self.model.parameters()), moved)

    def save(self, file: Path) -> None:
        """Write everything that a restart needs; the file is replaced at once."""
        state = {
            "model": self.model.state_dict(),
            "mean": self.mean.state_dict(),
            "features": self.features.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "seed": self.seed,
            "step": self.progress.step,
            "minutes": self.progress.minutes,
            "losses": self.progress.losses,
        }

        part = file.with_suffix(".part")
        torch.save(state, part)
        part.replace(file)

    def restore(self, file: Path) -> None:
        """Continue from a checkpoint."""
        state = torch.load(file, weights_only=True)

        self.model.load_state_dict(state["model"])
        self.mean.load_state_dict(state["mean"])
        self.features.load_state_dict(state["features"])
        self.optimizer.load_state_dict(state["optimizer"])

        self.progress = Progress(state["step"], state["minutes"], state["losses"])


def parameter_groups(named: list[tuple[str, nn.Parameter]]) -> list[dict[str, object]]:
    """Groups by their share of the learning rate: pretrained parts move less."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in named:
        shares = [share for part, share in PRETRAINED.items() if name.startswith(part)]
        groups.setdefault(shares[0] if shares else 1.0, []).append(parameter)
    return [{"params": members, "share": share} for share, members in groups.items()]


def share_gradients(parameters: list[nn.Parameter]) -> None:
    """Every worker's gradients become the mean of all."""
    flat = torch.cat(
        [p.grad.reshape(-1) if p.grad is not None else p.new_zeros(p.numel()) for p in parameters]
    )

    dist.all_reduce(flat)
    flat /= WORKERS

    parts = flat.split([p.numel() for p in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter)


def agreed(minutes: float) -> float:
    """The first worker's minutes, which all workers go by."""
    shared = torch.tensor(minutes)
    dist.broadcast(shared, 0)
    return float(shared)


def training_photos(folder: Path) -> list[Photo]:
    """The training split, less what resembles a judged photo."""
    judged = read_index(folder / "heldout")
    return without_duplicates(read_index(folder / "train"), judged, extra=(coins()[0][..., 0],))


def stage_at(done: float) -> Stage:
    """The stage at a share of the run."""
    return next(stage for stage in STAGES if done < stage.until)


def steps(trainer: Trainer, run: Run, photos: list[Photo], report: Callable[[float], None]) -> None:
    """Train until the minutes are over."""
    sampler, rank = Sampler(photos), dist.get_rank()
    begun, before = time.process_time(), trainer.progress.minutes

    while True:
        trainer.progress.minutes = agreed(before + (time.process_time() - begun) / 60)
        done = trainer.progress.minutes / run.minutes
        if done >= 1:
            return

        # All workers draw the same window and kind of prompt, and each its own photos.
        stage = stage_at(done)
        together = np.random.default_rng([run.seed, trainer.progress.step])
        alone = np.random.default_rng([run.seed, trainer.progress.step, rank + 1])
        view = stage.views[int(together.choice(len(stage.views), p=stage.chances))]
        kind = prompts.KINDS[int(together.choice(len(prompts.KINDS), p=prompts.CHANCES))]
        rounds = int(together.integers(1, 3)) if together.random() < CORRECTED else 0
        spare = (FRAME - view.side) // STRIDE
        origin = (int(together.integers(spare + 1)), int(together.integers(spare + 1)))

        trainer.model.decoder.set_window(view.side, origin)
        batch = sampler.batch(
            alone, side=view.side, images=view.images, count=view.count, kind=kind
        )
        loss = step_loss(alone, trainer.model, trainer.features, batch, rounds, stage.weights)
        trainer.update(loss, done)
        report(float(loss.detach()))


def train(worker: int, run: Run) -> None:
    """One worker's part of a run; the first one saves."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    meeting = f"file://{run.out.resolve()}/meeting"
    dist.init_process_group("gloo", meeting, rank=worker, world_size=WORKERS)

    trainer, file = Trainer(run), run.out / CHECKPOINT
    if file.exists():
        trainer.restore(file)
    saved, recent = time.monotonic(), []

    def report(loss: float) -> None:
        nonlocal saved
        recent.append(loss)
        progress = trainer.progress
        if worker == 0 and time.monotonic() - saved > 60 * SAVED_EVERY:
            line = {"minute": round(progress.minutes, 1), "step": progress.step}
            progress.losses.append({**line, "loss": round(float(np.mean(recent)), 4)})
            print(json.dumps(progress.losses[-1]), flush=True)
            trainer.save(file)
            saved = time.monotonic()
            recent.clear()

    steps(trainer, run, training_photos(run.photos), report)
    if worker == 0:
        trainer.save(file)
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=120, help="processor time of a worker")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/training"))
    options = parser.parse_args()

    run = Run(options.photos, options.out, options.minutes, options.seed)
    run.out.mkdir(parents=True, exist_ok=True)
    (run.out / "meeting").unlink(missing_ok=True)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # the workers meet on this machine only
    torch.multiprocessing.spawn(train, (run,), WORKERS)


if __name__ == "__main__":
    main()
