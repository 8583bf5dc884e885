"""What an image costs in the encoder on this machine's CPUs, against PyTorch: `make bench`.

nano, and an encoder of SAM ViT-B's shape whose weights are random: they cost what trained ones do. transformers'
own modules in PyTorch, run eagerly as SAM's users do, take turns with ONNX Runtime as exported, and with each CPU
variant that `samserve models quantise` writes. Then the fastest one through Triton, and how far from PyTorch's its
embedding is. Writes build/bench/encoder.json.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import torch
from numpy.typing import NDArray
from rich.console import Console
from samserve.bundles.bundle import DECODER, ENCODER, WEIGHTS, Bundle, load_bundle, write_facts
from samserve.bundles.names import SHIPPED
from samserve.bundles.variant import OPENVINO, Variant, load_variant
from samserve.core.image import FramedImage
from samserve.export.graphs.vit import VitEncoder
from samserve.export.onnx_files import EncoderGraph, export_encoder, round_to_half
from samserve.training.encoder import PIXEL_MEAN, PIXEL_STD, NanoEncoder
from samserve.training.network import graph_weights
from samserve.variants.gate.images import gate_images
from samserve.variants.gate.judge import Encoder, cosine
from samserve.variants.gate.triton import start_encoder
from samserve.variants.quantise import RECIPES, NothingToQuantise, write_cpu_variant
from torch import nn
from transformers import SamConfig, SamModel

from loadtest.bench.report import Row, medians, report

ROUNDS, THREADS = 3, os.cpu_count() or 1
TORCH, OURS, EXPORTED = "PyTorch, eager", "ours", "fp32, ONNX Runtime"
GOAL = "<= 0.25"  # of PyTorch's time, through Triton
Floats = NDArray[np.floating]


class Features(nn.Module):
    """transformers' encoder, answering with the tensor alone."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.encoder(pixels).last_hidden_state  # type: ignore[no-any-return]


@torch.no_grad()
def vit_b() -> SamModel:
    """As a training begins, with noise on what begins as a constant, and a position's share in the attention."""
    torch.manual_seed(0)
    model = SamModel(
        SamConfig(vision_config={"initializer_range": 0.02}, attn_implementation="eager")
    ).eval()
    for name, parameter in model.vision_encoder.named_parameters():
        if "pos" in name:
            parameter.normal_(0, 0.02)
        elif parameter.dim() == 1:
            parameter += 0.1 * torch.randn_like(parameter)
    round_to_half(model)
    return model


def bundle_of(encoder: nn.Module, folder: Path) -> Bundle:
    """nano's bundle with another encoder of the same frame and embedding."""
    nano = load_bundle(SHIPPED / "nano")
    folder.mkdir()
    for file in (DECODER, WEIGHTS):
        shutil.copyfile(nano.path / file, folder / file)
    export_encoder(
        EncoderGraph(encoder, PIXEL_MEAN, PIXEL_STD, nano.frame.side),
        nano.frame.side,
        folder / ENCODER,
    )
    kept = ("family", "licence", "frame", "low_res", "embedding", "precision", "preprocessing")
    write_facts(folder, {"name": folder.name, **{name: nano.facts[name] for name in kept}})
    return load_bundle(folder)


def nano() -> nn.Module:
    encoder = NanoEncoder().eval()
    weights = graph_weights(load_bundle(SHIPPED / "nano").encoder)
    prefix = "vision_encoder."
    encoder.load_state_dict(
        {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}
    )
    return encoder


def in_torch(encoder: nn.Module) -> Encoder:
    graph = EncoderGraph(encoder, PIXEL_MEAN, PIXEL_STD, 1024).eval()

    @torch.no_grad()
    def run(image: FramedImage) -> dict[str, NDArray[np.float16]]:
        return {"embedding": graph(*map(torch.from_numpy, fed(image).values())).numpy()[0]}

    return run


def in_process(variant: Variant) -> Encoder:
    """A variant as Triton's model runs it, without Triton."""
    if variant.backend == OPENVINO:
        hint = {"bf16": "bf16", "fp32": "f32"}[variant.precision]
        settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": THREADS,
            "NUM_STREAMS": 1,
        }
        model = openvino.Core().compile_model(variant.model, "CPU", settings)
        return lambda image: {"embedding": model(fed(image))["embedding"][0]}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(variant.model, options, ["CPUExecutionProvider"])
    return lambda image: {"embedding": session.run(["embedding"], fed(image))[0][0]}


def fed(image: FramedImage) -> dict[str, NDArray[np.generic]]:
    return {
        "image": image.pixels[None],
        "valid": np.array([[image.valid.height, image.valid.width]], np.int32),
    }


def bench(name: str, encoder: nn.Module, bundle: Bundle, aside: Path, goal: str) -> list[Row]:
    variants = {EXPORTED: bundle.variant}
    for precision in RECIPES:
        folder = aside / f"{name}-{precision}"
        try:
            write_cpu_variant(bundle, precision, folder)
        except NothingToQuantise:
            continue
        variant = load_variant(folder)
        variants[f"{precision}, {variant.backend}"] = variant
    image = gate_images(bundle.frame)[0].image
    torchs = in_torch(encoder)
    truth = torchs(image)["embedding"]
    rows, times = [], {}
    for label, variant in variants.items():  # one at a time: each keeps gigabytes
        run = in_process(variant)
        taken = in_turn(torchs, run, image)
        alike = cosine(truth, run(image)["embedding"])
        rows.append(Row(f"{name}: {label}", taken[OURS], "ms", TORCH, taken[TORCH]))
        rows.append(Row(f"{name}: {label}, cosine", alike, "", TORCH, 1.0, ">= 0.999"))
        times[label] = taken[OURS] / taken[TORCH]
        del run
    best = min(times, key=lambda label: times[label])
    with start_encoder(replace(bundle, variant=variants[best])) as through:
        taken = in_turn(torchs, through, image)
    return [
        *rows,
        Row(f"{name}: {best}, through Triton", taken[OURS], "ms", TORCH, taken[TORCH], goal),
    ]


def in_turn(torchs: Encoder, ours: Encoder, image: FramedImage) -> dict[str, float]:
    return medians({TORCH: lambda: torchs(image), OURS: lambda: ours(image)}, ROUNDS)


def main() -> None:
    torch.set_num_threads(THREADS)
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as name:
        aside = Path(name)
        console.print("measuring nano")
        rows = bench("nano", nano(), load_bundle(SHIPPED / "nano"), aside, goal="")
        console.print("measuring an encoder of ViT-B's shape")
        model = vit_b()
        bundle = bundle_of(VitEncoder(model), aside / "vit-b")
        rows += bench("ViT-B", Features(model.vision_encoder), bundle, aside, GOAL)
    report("encoder", rows)


if __name__ == "__main__":
    main()
