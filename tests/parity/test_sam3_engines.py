"""SAM 3's graphs compiled by the real TensorRT-RTX; none are run."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from checkpoints_sam3 import config
from onnx import numpy_helper
from samserve.bundles.bundle import CONCEPTS, Bundle, load_bundle
from samserve.bundles.gpu import Gpu
from samserve.export.checkpoints.checkpoint import Checkpoint
from samserve.export.concept_files import export_concepts
from samserve.export.families.sam3_model import Sam3, restore
from samserve.export.graphs.concepts import OUTPUTS, ConceptGraph
from samserve.variants.compiler import RTX, Compiler, find_compiler
from samserve.variants.concept_engine import check_head
from samserve.variants.engine import EngineSpec, build, write_mixed
from samserve.variants.gate.concepts import HeadAnswer, judge_head

ADA, AMPERE = Gpu(89), Gpu(86)
LARGE = pytest.mark.skipif(
    "SAMSERVE_LARGE" not in os.environ, reason="takes minutes and gigabytes: SAMSERVE_LARGE=1"
)


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    found = find_compiler()
    assert found.kind == RTX, "these tests are for machines without a GPU"
    return found


@pytest.fixture
def bundle(sam3_exported: tuple[Checkpoint, Bundle], tmp_path: Path) -> Bundle:
    _, exported = sam3_exported
    return load_bundle(Path(shutil.copytree(exported.path, tmp_path / "sam3")))


def check(layers: dict[str, int]) -> None:
    """Normalisations and softmax are in fp32, and products in halves."""
    assert layers["MATRIX_MULTIPLY HALF"] > 0
    assert layers["SOFTMAX FLOAT"] > 0
    assert layers["NORMALIZATION FLOAT"] > 0
    assert not {"SOFTMAX HALF", "NORMALIZATION HALF"} & set(layers)


def test_three_graphs_compile_with_norms_and_softmax_in_fp32(
    bundle: Bundle, compiler: Compiler
) -> None:
    engine = build(bundle, EngineSpec(ADA), compiler)
    check(engine.facts["layers"])
    assert bundle.concepts is not None
    heads = check_head(bundle, bundle.concepts, ADA, "fp16", compiler)
    assert [each.graph for each in heads] == ["concepts.onnx", "text.onnx"]
    for each in heads:
        check(each.layers)
        print(each)


def test_a_head_in_mixed_precision_passes_the_gate_and_one_with_a_lost_weight_does_not(
    bundle: Bundle, tmp_path: Path
) -> None:
    mixed = write_mixed(bundle.path / CONCEPTS, "fp16", tmp_path)
    expected, got = answers(bundle.path / CONCEPTS), answers(mixed)
    report = judge_head(expected, got)
    print([(each.score, each.presence, each.worst_iou) for each in report.concepts])
    assert report.reasons == []
    assert report.passed

    model = onnx.load(bundle.path / CONCEPTS)
    (bias,) = [each for each in model.graph.initializer if each.name.endswith("text_proj.bias")]
    bias.CopyFrom(numpy_helper.from_array(np.full(bias.dims, 2, np.float32), bias.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    wrong = judge_head(expected, answers(tmp_path / "wrong.onnx"))
    assert any("a score of" in reason for reason in wrong.reasons)


def answers(graph: Path) -> list[HeadAnswer]:
    """Ask a small head for three concepts on each of three images."""
    session = onnxruntime.InferenceSession(graph)
    random = np.random.default_rng(0)
    lengths = np.array([[3], [5], [9]])
    found = []
    for image in range(3):
        inputs = {
            "trunk": random.normal(size=(1, 64, 16, 16)).astype(np.float16),
            "text": random.normal(size=(3, 32, 256)).astype(np.float16),
            "text_mask": (np.arange(32) < lengths).astype(np.float32),
            "examples": (0.2 + 0.3 * random.random((3, 2, 4))).astype(np.float32),
            "example_labels": np.array([[1, 0], [1, -1], [-1, -1]], np.int32),
        }
        scores, presence, _, masks = session.run(list(OUTPUTS), inputs)
        found += [
            HeadAnswer(f"concept {row} of image {image}", float(presence[row]), *rest)
            for row, rest in enumerate(zip(scores, masks, strict=True))
        ]
    return found


@LARGE
def test_the_real_head_compiles_for_two_kinds_of_gpu(bundle: Bundle, compiler: Compiler) -> None:
    sizes = config("full")
    with torch.device("meta"):
        model = Sam3(sizes)
    model.to_empty(device="cpu")
    restore(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.detector_model.parameters():
            if parameter.numel() < 2**24:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    graph = ConceptGraph(model.detector_model, 50).eval()
    export_concepts(graph, (1024, 72, 72), 32, 256, bundle.path / CONCEPTS)
    real = replace(bundle, trunk={"trunk": (1024, 72, 72)})
    assert real.concepts is not None
    for target in (ADA, AMPERE):
        head = check_head(real, real.concepts, target, "fp16", compiler)[0]
        print(head)
        check(head.layers)
