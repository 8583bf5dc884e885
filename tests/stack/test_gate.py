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
from samserve.variants.gate.images import draw, png


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
        (folder / f"{number}.png").write_bytes(png(draw(number)))
    return folder


def run(bundles: Path, images: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "samserve.cli.main", "models", *words, "--images", str(images)]
    environment = {**os.environ, "SAMSERVE_BUNDLES": str(bundles), "COLUMNS": "120"}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_what_the_stack_serves_is_verified(stack: Stack, bundles: Path, images: Path) -> None:
    done = run(bundles, images, "verify", "nano", "--triton", stack.addresses.triton, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"]
    assert report["worst_iou"] > 0.999
    assert [picture["picture"] for picture in report["pictures"]] == ["5.png", "6.png"]


def test_a_spoilt_variant_is_refused_and_the_reason_said(bundles: Path, images: Path) -> None:
    nano = Store(bundles).load("nano")
    folder = nano.path / VARIANTS / "spoilt"
    folder.mkdir(parents=True)
    onnx.save(broken_encoders.takes_bgr(), str(folder / ENCODER))
    facts = {"backend": ONNXRUNTIME, "model": ENCODER, "precision": "fp32"}
    write_variant(folder, nano.name, nano.facts["preprocessing"], facts)
    done = run(bundles, images, "verify", "nano:spoilt")
    assert done.returncode == 1
    assert "mean IoU" in done.stdout
    assert "RGB for BGR" in done.stderr


def test_a_bf16_variant_is_kept_when_it_passes(bundles: Path, images: Path) -> None:
    done = run(bundles, images, "quantise", "nano", "--precision", "bf16", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["variant"] == "cpu-bf16"
    nano = Store(bundles).load("nano:cpu-bf16")
    assert nano.variant.facts["gate"]["passed"]
    assert nano.variant.facts["speed"]["milliseconds"] > 0
    assert nano.model_version in Store(bundles).load("nano").versions
    assert sorted(path.name for path in nano.path.iterdir() if path.is_dir()) == [VARIANTS]
    again = run(bundles, images, "quantise", "nano", "--precision", "bf16")
    assert again.returncode == 0, again.stderr
    assert "there already: nano:cpu-bf16" in again.stderr
    assert again.stdout == ""


def test_a_precision_that_changes_nothing_leaves_nothing(bundles: Path, images: Path) -> None:
    done = run(bundles, images, "quantise", "nano", "--precision", "int8")
    assert done.returncode == 2
    assert "try bf16" in done.stderr
    assert not (bundles / "nano" / VARIANTS).exists()


def test_a_triton_that_serves_something_else_is_named(
    stack: Stack, bundles: Path, images: Path
) -> None:
    facts = json.loads((bundles / "nano" / "model.json").read_text())
    (bundles / "nano" / "model.json").write_text(
        json.dumps({**facts, "model_version": "nano-other"})
    )
    done = run(bundles, images, "verify", "nano", "--triton", stack.addresses.triton)
    assert done.returncode == 2
    assert "not nano-other" in done.stderr
