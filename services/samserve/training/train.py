"""Train nano from a seed, on drawn scenes, by the clock.

    python -m samserve.training.train --minutes 95 --out build/training

Many small frames (128, then 256 pixels, 16x16 cells) teach what an object is, then frames of 512 and at last 1024
pixels teach large objects and, above all, the IoU head, which must see the scale it will rank masks at. Two processes
of one thread each take half of every step. Writes the weights' running mean to `nano.safetensors` (fp32, transformers'
parameter names) and `facts.json` at every report. `--begin 0.35` goes on from them, or from the shipped bundle where
there are none, on other scenes if the seed is another.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from samserve.bundles.names import SHIPPED
from samserve.training import prompts, scenes
from samserve.training.coins import coins
from samserve.training.network import (
    PIXEL_MEAN,
    PIXEL_STD,
    WIDTH,
    Nano,
    bundle_weights,
    load_weights,
)

SCENE = 512  # pixels of a drawn scene's side
SMALLEST = 60 / 256**2  # an object's least share of the frame: less does not show in the mask
PEAK = 4e-4  # learning rate, falling in a straight line to nothing
REMEMBERED = 0.995  # share of the weights' running mean that a step keeps
WORKERS = 2  # processes, one thread each
CHECKPOINT, FACTS = "nano.safetensors", "facts.json"
DETAIL = 8  # channels of the auxiliary pixel features
VALIDATION_SEED = 10_000_000  # scenes from here on are never trained on


@dataclass(frozen=True, slots=True)
class Stage:
    """until: share of the run at which the stage ends; frames: sizes drawn from; images and prompts per worker's step;
    ground: share of prompts on the scene's ground, without which "nothing, everywhere" is too comfortable at first.
    """

    until: float
    frames: tuple[int, ...]
    images: tuple[int, ...]
    prompts: int
    iou_weight: float
    ground: float


STAGES = (
    Stage(0.10, (128,), (4,), 6, 0.5, 0.4),
    Stage(0.35, (256,), (3,), 6, 1.0, 0.15),
    Stage(0.55, (512, 256), (2, 4), 6, 2.0, 0.05),
    Stage(1.01, (1024, 512), (1, 2), 6, 4.0, 0.03),
)


class PixelFeatures(nn.Module):
    """Auxiliary head, dropped after training: pixels of one object are drawn together, others apart.

    It gives the encoder a gradient from every pixel directly, long before the mask decoder has learned to ask.
    """

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Conv2d(WIDTH, 16 * DETAIL, 1)
        self.bias = nn.Parameter(torch.tensor(2.0))
        self.distance = nn.Parameter(torch.tensor(0.0))

    def forward(self, embedding: Tensor, owner: Tensor, clicks: Tensor) -> Tensor:
        """embedding [B, 256, G, G]; owner [N] image of each click; clicks [N, 2] in [0, 1) -> logits [N, 4G, 4G]."""
        features = F.pixel_shuffle(self.project(embedding), 4)
        side = features.shape[-1]
        cell = (clicks * side).long().clamp(0, side - 1)
        asked = features[owner, :, cell[:, 1], cell[:, 0]]
        apart = (features[owner] - asked[..., None, None]).square().sum(1)
        centre = (torch.arange(side) + 0.5) / side
        far = (centre[None, None] - clicks[:, 0, None, None]).square() + (
            centre[None, :, None] - clicks[:, 1, None, None]
        ).square()
        return self.bias - apart - self.distance.exp() * far


class CellMasks(nn.Module):
    """Auxiliary head, dropped after training: the mask read off the decoder's image tokens, one linear layer.

    The decoder's own masks are products of two unlearned things, where gradients are small; this is the way around.
    """

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, 16)
        transformer.register_forward_hook(self._keep)
        self._tokens = torch.zeros(0)

    def _keep(self, module: nn.Module, inputs: object, output: tuple[Tensor, Tensor]) -> None:
        del module, inputs
        self._tokens = output[1][:, 0]

    def forward(self) -> Tensor:
        """Logits [N, 4G, 4G] of the transformer's last run."""
        count, cells, _ = self._tokens.shape
        side = math.isqrt(cells)
        return F.pixel_shuffle(
            self.project(self._tokens).transpose(1, 2).reshape(count, 16, side, side), 4
        )[:, 0]


def tie_attention(model: Nano, scale: float = 2.0) -> None:
    """Start the attention between tokens and image with keys projected as queries are.

    Positional encodings then match where they are alike, so that a click sees its surroundings from the first step on,
    instead of after some hundred steps in which every prompt gets the same masks.
    """
    transformer = model.mask_decoder.transformer
    crossing = [
        a
        for block in transformer.layers
        for a in (block.cross_attn_token_to_image, block.cross_attn_image_to_token)
    ]
    with torch.no_grad():
        for attention in (*crossing, transformer.final_attn_token_to_image):
            attention.q_proj.weight.mul_(scale)
            attention.k_proj.weight.copy_(attention.q_proj.weight)


@dataclass(frozen=True, slots=True)
class Batch:
    """pixels [B, 3, F, F]; per prompt: owner [N], wanted masks [N, F, F] and tokens."""

    pixels: Tensor
    owner: Tensor
    wanted: NDArray[np.bool_]
    tokens: list[prompts.Tokens]


def view(rng: np.random.Generator, scene: scenes.Scene, frame: int) -> scenes.Scene:
    """One augmented look at a scene: cropped, resized to the frame, flipped, turned."""
    side = SCENE if rng.random() < 0.5 else int(rng.uniform(0.4, 1) * SCENE)
    x, y = rng.integers(SCENE - side + 1, size=2)
    image, labels = (
        scene.image[y : y + side, x : x + side],
        scene.labels[y : y + side, x : x + side],
    )
    how = cv2.INTER_AREA if side > frame else cv2.INTER_LINEAR
    image = cv2.resize(image, (frame, frame), interpolation=how)
    labels = cv2.resize(labels, (frame, frame), interpolation=cv2.INTER_NEAREST)
    if rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    if rng.random() < 0.5:
        image, labels = image.swapaxes(0, 1), labels.T
    return scenes.Scene(np.ascontiguousarray(image), np.ascontiguousarray(labels))


def normalised(image: NDArray[np.uint8], valid: tuple[int, int]) -> Tensor:
    """[F, F, 3] RGB -> [3, F, F], zero outside `valid` (height, width), as SAM pads."""
    pixels = (torch.from_numpy(image.astype(np.float32)) - torch.tensor(PIXEL_MEAN)) / torch.tensor(
        PIXEL_STD
    )
    pixels[valid[0] :] = 0
    pixels[:, valid[1] :] = 0
    return pixels.permute(2, 0, 1)


def sample(
    rng: np.random.Generator,
    drawn: list[scenes.Scene],
    frame: int,
    images: int,
    count: int,
    ground: float,
) -> Batch:
    """Scenes and prompts of one step; all prompts of a step are of one kind, so that no padding but SAM's is seen."""
    kind = rng.random()
    clicks, box = (
        (1, False)
        if kind < 0.47
        else (0, True)
        if kind < 0.8
        else (1, True)
        if kind < 0.88
        else (2, False)
    )
    pixels: list[Tensor] = []
    owner: list[int] = []
    wanted: list[NDArray[np.bool_]] = []
    tokens: list[prompts.Tokens] = []
    while len(pixels) < images:
        seen = view(rng, drawn[int(rng.integers(len(drawn)))], frame)
        valid = (frame, frame)
        if rng.random() < 0.3:
            short = int(rng.uniform(0.4, 1) * frame)
            valid = (short, frame) if rng.random() < 0.5 else (frame, short)
        labels = seen.labels.astype(np.int16)
        labels[valid[0] :] = -1
        labels[:, valid[1] :] = -1
        area = np.bincount(labels.ravel() + 1, minlength=3)[1:]
        shown = np.flatnonzero(area > max(SMALLEST * frame**2, 6 * 16))
        objects = shown[shown > 0]
        if not len(objects):
            continue
        tint = np.clip(seen.image * (1 + rng.normal(0, 0.1)) + rng.normal(0, 6, 3), 0, 255).astype(
            np.uint8
        )
        chosen = rng.choice(objects, count, replace=len(objects) < count)
        chosen[rng.random(count) < ground * (0 in shown)] = 0
        for label in chosen:
            mask = labels == label
            owner.append(len(pixels))
            wanted.append(mask)
            tokens.append(prompts.prompt(rng, mask, clicks, box))
        pixels.append(normalised(tint, valid))
    return Batch(torch.stack(pixels), torch.tensor(owner), np.stack(wanted), tokens)


def stacked(tokens: list[prompts.Tokens]) -> tuple[Tensor, Tensor]:
    return (
        torch.from_numpy(np.stack([t.points for t in tokens])),
        torch.from_numpy(np.stack([t.labels for t in tokens])),
    )


def mask_losses(logits: Tensor, target: Tensor) -> Tensor:
    """[..., H, W] logits against soft targets: twice the cross entropy plus the dice loss, per mask."""
    cross = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((-2, -1))
    chance = logits.sigmoid()
    dice = 1 - (2 * (chance * target).sum((-2, -1)) + 1) / ((chance + target).sum((-2, -1)) + 1)
    return 2 * cross + dice


def true_iou(logits: Tensor, target: Tensor) -> Tensor:
    got, want = logits > 0, target > 0.5
    return (got & want).sum((-2, -1)).float() / (got | want).sum((-2, -1)).clamp(min=1)


def step_loss(
    rng: np.random.Generator,
    model: Nano,
    features: PixelFeatures,
    cells: CellMasks,
    batch: Batch,
    correct: bool,
    iou_weight: float,
) -> Tensor:
    frame = batch.pixels.shape[-1]
    embedding = model.vision_encoder(batch.pixels.contiguous(memory_format=torch.channels_last))
    each = embedding[batch.owner]
    target = F.avg_pool2d(torch.from_numpy(batch.wanted).float()[:, None], 4)
    count, side = len(batch.tokens), frame // 4
    tokens = batch.tokens
    mask_input, has_mask = torch.zeros(count, 1, side, side), torch.zeros(count)
    if correct:
        with torch.no_grad():
            logits, ious = model.decoder(each, *stacked(tokens), mask_input, has_mask)
        mask_input = logits[torch.arange(count), 1 + ious[:, 1:].argmax(1)][:, None]
        has_mask = torch.ones(count)
        answered = F.interpolate(mask_input, (frame, frame), mode="bilinear")[:, 0].numpy() > 0
        tokens = [
            prompts.corrective(rng, w, a, t)
            for w, a, t in zip(batch.wanted, answered, tokens, strict=True)
        ]
    logits, ious = model.decoder(each, *stacked(tokens), mask_input, has_mask)
    every = target.expand_as(logits)
    losses = mask_losses(logits, every)
    loss = (
        losses[:, 1:].min(1).values.mean() + 0.5 * losses[:, 0].mean() + 0.2 * losses[:, 1:].mean()
    )
    wrong = ious - true_iou(logits.detach(), every)
    ranking = wrong[:, 1:] - wrong[:, 1:].mean(
        1, keepdim=True
    )  # what is wrong with the order of the three
    loss = loss + iou_weight * (wrong.square().mean() + 2 * ranking.square().mean())
    inside = [np.argwhere(w) for w in batch.wanted]
    asked = (
        np.stack([p[int(rng.integers(len(p)))][::-1] + 0.5 for p in inside]).astype(np.float32)
        / frame
    )
    near = features(embedding, batch.owner, torch.from_numpy(asked))
    return (
        loss
        + 0.3 * mask_losses(near, target[:, 0]).mean()
        + 0.6 * mask_losses(cells(), target[:, 0]).mean()
    )


@torch.no_grad()
def score(
    model: Nano, image: NDArray[np.uint8], labels: NDArray[np.integer], frame: int
) -> list[tuple[float, float]]:
    """IoU of the mask ranked first and of the best of three, one click at each object's deepest point."""
    h, w = labels.shape
    scale = frame / max(h, w)
    size = (round(w * scale), round(h * scale))
    resized = cv2.resize(
        image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    canvas = np.zeros((frame, frame, 3), np.uint8)
    canvas[: size[1], : size[0]] = resized
    model.set_frame(frame)
    embedding = model.vision_encoder(normalised(canvas, (size[1], size[0]))[None])
    scores = []
    for label in np.unique(labels)[1:]:
        wanted = labels == label
        if wanted.sum() < SMALLEST * h * w:
            continue
        x, y = prompts.deepest(wanted)
        points = torch.tensor([[[(x + 0.5) * scale - 0.5, (y + 0.5) * scale - 0.5], [0, 0]]])
        empty = torch.zeros(1, 1, frame // 4, frame // 4)
        logits, ious = model.decoder(
            embedding, points, torch.tensor([[1.0, -1.0]]), empty, torch.zeros(1)
        )
        full = F.interpolate(logits[:, 1:], (frame, frame), mode="bilinear")[
            ..., : size[1], : size[0]
        ]
        full = F.interpolate(full, (h, w), mode="bilinear")[0]
        each = true_iou(full, torch.from_numpy(wanted).expand_as(full))
        scores.append((float(each[ious[0, 1:].argmax()]), float(each.max())))
    return scores


def report(model: Nano, held_out: list[scenes.Scene], frame: int) -> dict[str, float]:
    photo, truth = coins()
    on_scenes = np.mean(
        [s for scene in held_out for s in score(model, scene.image, scene.labels, frame)], 0
    )
    on_coins = np.mean(score(model, photo, truth, 1024), 0)
    names = ("scenes_first", "scenes_best", "coins_first", "coins_best")
    return dict(zip(names, (round(float(v), 3) for v in (*on_scenes, *on_coins)), strict=True))


@dataclass(frozen=True, slots=True)
class Run:
    """begin: share of the schedule at which it starts; more than 0 goes on from a checkpoint. scenes: per worker."""

    minutes: float
    seed: int
    begin: float
    scenes: int
    out: Path

    def start(self) -> tuple[dict[str, Tensor], list[object]]:
        """The weights to go on from, and the facts of the runs behind them."""
        if (self.out / CHECKPOINT).exists():
            return load_file(self.out / CHECKPOINT), json.loads((self.out / FACTS).read_text())[
                "runs"
            ]
        shipped = SHIPPED / "nano"
        return bundle_weights(shipped), json.loads((shipped / "model.json").read_text())[
            "training"
        ]["runs"]


class Clock:
    """The first worker's time, which all of them go by: they must agree on every step's size."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._started = time.monotonic()

    @property
    def minutes(self) -> float:
        return (time.monotonic() - self._started) / 60

    def done(self) -> float:
        """Share of the schedule that has passed, the same in all workers."""
        passed = torch.tensor(
            self._run.begin + (1 - self._run.begin) * self.minutes / self._run.minutes
        )
        dist.broadcast(passed, 0)
        return float(passed)


def share_gradients(parameters: list[nn.Parameter]) -> None:
    """Every worker's gradients become the mean of all."""
    flat = torch.cat(
        [p.grad.reshape(-1) if p.grad is not None else p.new_zeros(p.numel()) for p in parameters]
    )
    dist.all_reduce(flat)
    flat /= WORKERS
    for parameter, part in zip(
        parameters, flat.split([p.numel() for p in parameters]), strict=True
    ):
        parameter.grad = part.view_as(parameter)


def train(worker: int, run: Run) -> None:
    """One worker's part of a run; the first one reports and saves on the way."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{run.out.resolve()}/meeting", rank=worker, world_size=WORKERS
    )
    first = run.seed * 100_000 + worker * run.scenes
    drawn = [scenes.draw(seed) for seed in range(first, first + run.scenes)]
    held_out = [scenes.draw(seed) for seed in range(VALIDATION_SEED, VALIDATION_SEED + 12)]

    torch.manual_seed(run.seed)
    together, alone = np.random.default_rng(run.seed), np.random.default_rng([run.seed, worker])
    model, mean = Nano(), Nano()
    before: list[object] = []
    if run.begin:
        weights, before = run.start()
        load_weights(model, weights)
    else:
        tie_attention(model)
    mean.load_state_dict(model.state_dict())
    features, cells = PixelFeatures(), CellMasks(model.mask_decoder.transformer)
    for network in (model, mean):
        network.vision_encoder.to(memory_format=torch.channels_last)
    parameters = [
        p
        for p in (*model.parameters(), *features.parameters(), *cells.parameters())
        if p.requires_grad
    ]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK, weight_decay=0.05)
    reports: list[dict[str, float]] = []
    step, reported = 0, 0.0

    def tell(frame: int) -> None:
        reports.append(
            {
                "minute": round(clock.minutes, 1),
                "step": step,
                "frame": frame,
                **report(mean, held_out, frame),
            }
        )
        print(json.dumps(reports[-1]), flush=True)
        facts = {
            "seed": run.seed,
            "minutes": run.minutes,
            "begin": run.begin,
            "steps": step,
            "reports": reports,
        }
        save(
            mean, {"stages": [asdict(stage) for stage in STAGES], "runs": [*before, facts]}, run.out
        )

    clock = Clock(run)
    while (done := clock.done()) < 1:
        stage = next(s for s in STAGES if done < s.until)
        which = int(together.integers(len(stage.frames)))
        model.set_frame(stage.frames[which])
        correct = done > 0.15 and together.random() < 0.3
        batch = sample(
            alone, drawn, stage.frames[which], stage.images[which], stage.prompts, stage.ground
        )
        loss = step_loss(alone, model, features, cells, batch, correct, stage.iou_weight)
        for group in optimizer.param_groups:
            group["lr"] = PEAK * min(1, (step + 1) / 100) * (1 - done)
        optimizer.zero_grad()
        loss.backward()
        share_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        with torch.no_grad():
            torch._foreach_lerp_(
                list(mean.parameters()), list(model.parameters()), max(1 - REMEMBERED, 1 / step)
            )
        if worker == 0 and clock.minutes - reported > (2 if done < 0.12 else 10):
            tell(stage.frames[0])
            reported = clock.minutes
    if worker == 0:
        tell(1024)
    dist.destroy_process_group()


def save(model: Nano, facts: dict[str, object], out: Path) -> None:
    tensors = {
        name: tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith("decoder.")
    }
    encoding = tensors.pop("prompt_encoder.shared_embedding.positional_embedding")
    tensors["shared_image_embedding.positional_embedding"] = encoding
    part = out / f"{CHECKPOINT}.part"
    save_file(tensors, part)
    part.replace(out / CHECKPOINT)
    (out / FACTS).write_text(json.dumps(facts, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=95)
    parser.add_argument("--scenes", type=int, default=3200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--begin", type=float, default=0, help="share of the schedule to go on from"
    )
    parser.add_argument("--out", type=Path, default=Path("build/training"))
    options = parser.parse_args()
    run = Run(options.minutes, options.seed, options.begin, options.scenes // WORKERS, options.out)
    run.out.mkdir(parents=True, exist_ok=True)
    (run.out / "meeting").unlink(missing_ok=True)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # the workers meet on this machine only
    torch.multiprocessing.spawn(train, (run,), WORKERS)


if __name__ == "__main__":
    main()
