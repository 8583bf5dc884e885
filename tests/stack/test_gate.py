"""The gate's commands, with encoders served by the real Triton."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import broken_encoders
import onnx
import pytest
from samserve.bundles.bundle import ENCODER
from samserve.bundles.names import SHIPPED
from samserve.bundles.store import Store
from samserve.bundles.variant import ONNXRUNTIME, VARIANTS, write_variant
from samserve.local.stack import Stack
from samserve.variants.gate.images import draw, encode_png


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    """A user's folder of bundles, with a nano of their own."""
    shutil.copytree(SHIPPED / "nano", tmp_path / "bundles" / "nano")
    return tmp_path / "bundles"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in (5, 6):
        (folder / f"{number}.png").write_bytes(encode_png(draw(number)))
    return folder


def run(bundles: Path, images: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "samserve.cli.main", "models", *words, "--images", str(images)]
    environment = {**os.environ, "SAMSERVE_BUNDLES": str(bundles), "COLUMNS": "120"}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_served_model_is_verified(stack: Stack, bundles: Path, images: Path) -> None:
    result = run(bundles, images, "verify", "nano", "--triton", stack.addresses.triton, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["passed"]
    assert report["worst_iou"] > 0.999
    assert [scores["image"] for scores in report["images"]] == ["5.png", "6.png"]


def test_a_broken_variant_is_refused_with_the_reason(bundles: Path, images: Path) -> None:
    nano = Store(bundles).load("nano")
    folder = nano.path / VARIANTS / "broken"
    folder.mkdir(parents=True)
    onnx.save(broken_encoders.takes_bgr(), str(folder / ENCODER))
    facts = {"backend": ONNXRUNTIME, "model": ENCODER, "precision": "fp32"}
    write_variant(folder, nano.name, nano.facts["preprocessing"], facts)
    result = run(bundles, images, "verify", "nano:broken")
    assert result.returncode == 1
    assert "mean IoU" in result.stdout
    assert "RGB for BGR" in result.stderr


def test_a_bf16_variant_is_kept_if_it_passes(bundles: Path, images: Path) -> None:
    result = run(bundles, images, "quantise", "nano", "--precision", "bf16", "--json")
    if result.returncode == 1:  # processors with products in bf16 round more than others
        assert "refused: nano in bf16" in result.stderr
        assert not (bundles / "nano" / VARIANTS).exists()
        return

    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["variant"] == "cpu-bf16"
    nano = Store(bundles).load("nano:cpu-bf16")
    assert nano.variant.facts["gate"]["passed"]
    assert nano.variant.facts["speed"]["milliseconds"] > 0
    assert nano.model_version in Store(bundles).load("nano").versions
    assert sorted(path.name for path in nano.path.iterdir() if path.is_dir()) == [VARIANTS]
    again = run(bundles, images, "quantise", "nano", "--precision", "bf16")
    assert again.returncode == 0, again.stderr
    assert "already exists: nano:cpu-bf16" in again.stderr
    assert again.stdout == ""


def test_a_precision_that_changes_nothing_leaves_nothing(bundles: Path, images: Path) -> None:
    result = run(bundles, images, "quantise", "nano", "--precision", "int8")
    assert result.returncode == 2
    assert "try bf16" in result.stderr
    assert not (bundles / "nano" / VARIANTS).exists()


def test_a_triton_that_serves_another_model_is_refused(
    stack: Stack, bundles: Path, images: Path
) -> None:
    facts = json.loads((bundles / "nano" / "model.json").read_text())
    (bundles / "nano" / "model.json").write_text(
        json.dumps({**facts, "model_version": "nano-other"})
    )
    result = run(bundles, images, "verify", "nano", "--triton", stack.addresses.triton)
    assert result.returncode == 2
    assert "not nano-other" in result.stderr
