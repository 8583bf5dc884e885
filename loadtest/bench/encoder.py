"""Benchmark of CPU encoders against PyTorch: `python -m loadtest.bench.encoder`.

The encoders are nano, and one of ViT-B's shape with random weights, which take as long as trained
ones. The peer is transformers' own modules in PyTorch, run eagerly as SAM's users do. ONNX Runtime
with the exported graph and each CPU variant of `samserve models quantise` run in turn with it. The
fastest then runs through Triton. Also measures how far each embedding is from PyTorch's. Writes
build/bench/encoder.json.
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
TORCH, SAMSERVE, EXPORTED = "PyTorch, eager", "samserve", "fp32, ONNX Runtime"
GOAL = "<= 0.25"  # through Triton, relative to PyTorch

Floats = NDArray[np.floating]


class Features(nn.Module):
    """transformers' encoder; returns only the tensor."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.encoder(pixels).last_hidden_state  # type: ignore[no-any-return]


@torch.no_grad()
def vit_b() -> SamModel:
    """Return a ViT-B at its initial weights, with noise on constant vectors and positions."""
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
    """Return nano's bundle with another encoder of the same frame and embedding."""
    nano = load_bundle(SHIPPED / "nano")
    folder.mkdir()
    for file in (DECODER, WEIGHTS):
        shutil.copyfile(nano.path / file, folder / file)

    graph = EncoderGraph(encoder, PIXEL_MEAN, PIXEL_STD, nano.frame.side)
    export_encoder(graph, nano.frame.side, folder / ENCODER)
    kept = ("family", "licence", "frame", "low_res", "embedding", "precision", "preprocessing")
    write_facts(folder, {"name": folder.name, **{name: nano.facts[name] for name in kept}})
    return load_bundle(folder)


def nano_encoder() -> nn.Module:
    encoder = NanoEncoder().eval()
    weights = graph_weights(load_bundle(SHIPPED / "nano").encoder)
    prefix = "vision_encoder."
    state = {
        name.removeprefix(prefix): tensor
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }
    encoder.load_state_dict(state)
    return encoder


def torch_encoder(encoder: nn.Module) -> Encoder:
    graph = EncoderGraph(encoder, PIXEL_MEAN, PIXEL_STD, 1024).eval()

    @torch.no_grad()
    def run(image: FramedImage) -> dict[str, NDArray[np.float16]]:
        tensors = map(torch.from_numpy, inputs(image).values())
        return {"embedding": graph(*tensors).numpy()[0]}

    return run


def local_encoder(variant: Variant) -> Encoder:
    """Run a variant as Triton's model does, in this process."""
    if variant.backend == OPENVINO:
        hint = {"bf16": "bf16", "fp32": "f32"}[variant.precision]
        settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": THREADS,
            "NUM_STREAMS": 1,
        }
        model = openvino.Core().compile_model(variant.model, "CPU", settings)
        return lambda image: {"embedding": model(inputs(image))["embedding"][0]}

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(variant.model, options, ["CPUExecutionProvider"])
    return lambda image: {"embedding": session.run(["embedding"], inputs(image))[0][0]}


def inputs(image: FramedImage) -> dict[str, NDArray[np.generic]]:
    return {
        "image": image.pixels[None],
        "valid": np.array([[image.valid.height, image.valid.width]], np.int32),
    }


def bench(name: str, encoder: nn.Module, bundle: Bundle, folder: Path, goal: str) -> list[Row]:
    """Measure one encoder.

    Args:
        name: The encoder's name in the table.
        encoder: The encoder in PyTorch.
        bundle: The exported model.
        folder: Where CPU variants are written.
        goal: Goal of the fastest variant through Triton.
    """
    variants = {EXPORTED: bundle.variant}
    for precision in RECIPES:
        variant_folder = folder / f"{name}-{precision}"
        try:
            write_cpu_variant(bundle, precision, variant_folder)
        except NothingToQuantise:
            continue
        variant = load_variant(variant_folder)
        variants[f"{precision}, {variant.backend}"] = variant

    image = gate_images(bundle.frame)[0].image
    peer = torch_encoder(encoder)
    reference = peer(image)["embedding"]

    # One variant at a time: each holds gigabytes.
    rows: list[Row] = []
    ratios = {}
    for label, variant in variants.items():
        run = local_encoder(variant)
        times = time_in_turn(peer, run, image)
        similarity = cosine(reference, run(image)["embedding"])

        rows += [
            Row(f"{name}: {label}", times[SAMSERVE], "ms", TORCH, times[TORCH]),
            Row(f"{name}: {label}, cosine", similarity, "", TORCH, 1.0, ">= 0.999"),
        ]
        ratios[label] = times[SAMSERVE] / times[TORCH]
        del run

    # The fastest one through Triton.
    best = min(ratios, key=lambda label: ratios[label])
    with start_encoder(replace(bundle, variant=variants[best])) as triton:
        times = time_in_turn(peer, triton, image)
    title = f"{name}: {best}, through Triton"
    return [*rows, Row(title, times[SAMSERVE], "ms", TORCH, times[TORCH], goal)]


def time_in_turn(peer: Encoder, encoder: Encoder, image: FramedImage) -> dict[str, float]:
    return medians({TORCH: lambda: peer(image), SAMSERVE: lambda: encoder(image)}, ROUNDS)


def main() -> None:
    torch.set_num_threads(THREADS)
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        console.print("measuring nano")
        rows = bench("nano", nano_encoder(), load_bundle(SHIPPED / "nano"), folder, goal="")
        console.print("measuring an encoder of ViT-B's shape")
        model = vit_b()
        bundle = bundle_of(VitEncoder(model), folder / "vit-b")
        rows += bench("ViT-B", Features(model.vision_encoder), bundle, folder, GOAL)

    report("encoder", rows)


if __name__ == "__main__":
    main()
