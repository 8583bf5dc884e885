"""Encoders compiled by the real TensorRT-RTX, which needs no GPU to compile; none are run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from onnx import helper
from samserve.bundles.bundle import ENCODER, Bundle, load_bundle, write_facts
from samserve.bundles.gpu import Gpu
from samserve.bundles.names import SHIPPED
from samserve.cli.main import app
from samserve.core.family import IMAGENET_MEAN, IMAGENET_STD
from samserve.export.graphs.vit import VitEncoder
from samserve.export.onnx_files import EncoderGraph, export_encoder
from samserve.variants.compiler import RTX, Compiler, EngineRefused, NoCompiler, find_compiler
from samserve.variants.engine import ENGINES, Engine, EngineSpec, build
from samserve.variants.precision import Half
from transformers import SamConfig, SamModel
from typer.testing import CliRunner

LAYERS = 12  # ViT-B's
ADA, AMPERE = Gpu(89), Gpu(86)


@pytest.fixture(scope="session")
def compiler() -> Compiler:
    found = find_compiler()
    assert found.kind == RTX, "these tests are for machines without a GPU"
    return found


@pytest.fixture
def nano(tmp_path: Path) -> Bundle:
    return load_bundle(Path(shutil.copytree(SHIPPED / "nano", tmp_path / "nano")))


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle with a ViT-B encoder of random weights, exported as for `models export`."""
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = SamConfig()
    graph = EncoderGraph(
        VitEncoder(SamModel(config)), IMAGENET_MEAN, IMAGENET_STD, config.vision_config.image_size
    )
    export_encoder(graph, config.vision_config.image_size, folder / ENCODER)
    facts = json.loads((SHIPPED / "nano" / "model.json").read_text())
    write_facts(folder, {**facts, "name": "vit"})
    return load_bundle(folder)


def copy_with(nano: Bundle, node: onnx.NodeProto) -> Bundle:
    """Return nano with one more node before the last one, and valid digests."""
    model = onnx.load(nano.encoder)
    last = model.graph.node[-1]
    node.input.append(last.input[0])
    last.input[0] = node.output[0]
    model.graph.node.insert(len(model.graph.node) - 1, node)
    onnx.save(model, nano.encoder)
    write_facts(
        nano.path, {k: v for k, v in nano.facts.items() if k not in ("files", "model_version")}
    )
    return load_bundle(nano.path)


@pytest.mark.parametrize(("half", "kind"), [("fp16", "HALF"), ("bf16", "BF16")])
def test_nano_compiles_with_its_products_in_halves_and_its_normalisations_in_fp32(
    nano: Bundle, compiler: Compiler, half: Half, kind: str
) -> None:
    engine = build(nano, EngineSpec(ADA, half), compiler)
    assert engine.facts["layers"] == {f"CONVOLUTION {kind}": 59, "NORMALIZATION FLOAT": 3}
    assert engine.file.stat().st_size > 5 * 10**6  # nano has 3.7 million weights, as halves


def test_sams_vision_transformer_compiles_for_two_kinds_of_gpu(
    vit: Bundle, compiler: Compiler
) -> None:
    engines = [build(vit, EngineSpec(target), compiler) for target in (ADA, AMPERE)]
    for engine in engines:
        assert engine.facts["layers"] == {
            "CONVOLUTION HALF": 3,
            "MATRIX_MULTIPLY HALF": 8 * LAYERS,
            "NORMALIZATION FLOAT": 2 * LAYERS + 2,
            "SOFTMAX FLOAT": LAYERS,
        }
        assert engine.facts["activation_bytes"] > 0
    assert (
        len({engine.file.name for engine in engines})
        == len({engine.facts["sha256"] for engine in engines})
        == 2
    )


def test_an_engine_that_is_there_is_not_compiled_again(nano: Bundle, compiler: Compiler) -> None:
    first, again = (build(nano, EngineSpec(ADA), compiler) for _ in range(2))
    assert (first.built, again.built) == (True, False)
    assert again == Engine(first.file, first.facts, built=False)
    assert build(nano, EngineSpec(AMPERE), compiler).built


def test_what_a_killed_builder_left_is_no_engine(nano: Bundle, compiler: Compiler) -> None:
    file = build(nano, EngineSpec(ADA), compiler).file
    file.rename(file.with_suffix(".part"))
    assert build(nano, EngineSpec(ADA), compiler).built


def test_of_two_builders_at_once_one_compiles(nano: Bundle) -> None:
    command = [
        sys.executable,
        "-m",
        "samserve.cli.main",
        "models",
        "engine",
        "nano",
        "--target",
        "L4",
        "--json",
    ]
    environment = {**os.environ, "SAMSERVE_BUNDLES": str(nano.path.parent)}
    builders = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [json.loads(builder.communicate(timeout=120)[0])[0] for builder in builders]
    assert sorted(answer.pop("built") for answer in answers) == [False, True]
    assert answers[0] == answers[1]
    assert len(list((nano.path / ENGINES).glob("*.check"))) == 1


def test_a_graph_that_tensorrt_does_not_take_is_refused_naming_the_node(
    nano: Bundle, compiler: Compiler
) -> None:
    broken = copy_with(nano, helper.make_node("Frobnicate", [], ["odd"], name="the odd node"))
    with pytest.raises(EngineRefused, match=r"rejects node 'the odd node' \(Frobnicate\): \S+"):
        build(broken, EngineSpec(ADA), compiler)
    assert not list((nano.path / ENGINES).glob("*.check"))


def test_a_file_that_is_no_graph_is_refused_by_name(nano: Bundle, compiler: Compiler) -> None:
    nano.encoder.write_bytes(b"\xff" * 100)
    with pytest.raises(EngineRefused, match=r"encoder\.onnx is not a valid graph"):
        build(nano, EngineSpec(ADA), compiler)


def test_a_gpu_that_the_compiler_does_not_know_is_refused_with_those_it_knows(
    nano: Bundle, compiler: Compiler
) -> None:
    with pytest.raises(NoCompiler, match=r"sm90 \(H100, H200\); supported: sm75, .*sm89"):
        build(nano, EngineSpec(Gpu(90)), compiler)


@pytest.mark.parametrize(
    ("options", "code", "answer"),
    [
        (
            ["--target", "sm42"],
            2,
            "unknown GPU 'sm42'; supported: sm75 (T4)",
        ),
        (["--target", "sm89", "--batch", "8"], 2, "invalid batch profile '8'"),
        (["--target", "sm90"], 1, "TensorRT-RTX does not compile for sm90"),
    ],
)
def test_the_command_says_in_a_sentence_why_there_is_no_engine(
    nano: Bundle, monkeypatch: pytest.MonkeyPatch, options: list[str], code: int, answer: str
) -> None:
    monkeypatch.setenv("SAMSERVE_BUNDLES", str(nano.path.parent))
    result = CliRunner().invoke(app, ["models", "engine", "nano", "--json", *options])
    assert result.exit_code == code
    assert json.loads(result.stdout)["error"].startswith(answer)
    assert not (nano.path / ENGINES).exists()
