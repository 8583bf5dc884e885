"""SAM 3's graphs compiled by the real TensorRT-RTX; none are run."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoints_sam3 import config
from samserve.bundles.bundle import CONCEPTS, Bundle, load_bundle
from samserve.bundles.gpu import Gpu
from samserve.export.checkpoints.checkpoint import Checkpoint
from samserve.export.concept_files import export_concepts
from samserve.export.families.sam3_model import Sam3, restore
from samserve.export.graphs.concepts import ConceptGraph
from samserve.variants.compiler import RTX, Compiler, find_compiler
from samserve.variants.concept_engine import check_head
from samserve.variants.engine import EngineSpec, build

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
