"""Bundles by name, and the commands that look them up. A GPU is faked by its driver's tool."""

import json
import shutil
from pathlib import Path

import pytest
from samserve.bundles.files import BrokenBundle
from samserve.bundles.names import SHIPPED
from samserve.bundles.store import Store, UnknownModel
from samserve.bundles.variant import ONNXRUNTIME, TENSORRT, VARIANTS, write_variant
from samserve.cli.models import app
from typer.testing import CliRunner

PASSED = {"passed": True, "reasons": []}


@pytest.fixture
def l4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "nvidia-smi").write_text('#!/bin/sh\necho "NVIDIA L4, 8.9"\n')
    (tools / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SAMSERVE_BUNDLES", str(tmp_path / "bundles"))
    monkeypatch.setenv("COLUMNS", "200")
    return Store(tmp_path / "bundles")


def add_engine(store: Store, name: str, target: str) -> None:
    nano = store.load_writable("nano")
    folder = nano.path / VARIANTS / name
    folder.mkdir(parents=True)
    (folder / "model.plan").write_bytes(name.encode())
    facts = {
        "backend": TENSORRT,
        "model": "model.plan",
        "precision": "fp16",
        "target": target,
        "gate": PASSED,
    }
    write_variant(folder, nano.name, nano.facts["preprocessing"], {**facts, "profile": [1, 4, 8]})


def test_a_shipped_bundle_is_copied_before_it_is_changed(store: Store) -> None:
    copy = store.load_writable("nano")
    assert copy.path == store.folder / "nano"
    assert copy.model_version == Store(SHIPPED).load("nano").model_version
    assert store.load_writable("nano").path == copy.path
    assert store.load("nano").path == copy.path


def test_an_unknown_model_is_refused_and_the_available_ones_are_listed(store: Store) -> None:
    with pytest.raises(UnknownModel, match="unknown model 'micro'; available: nano"):
        store.load("micro")


def test_here_means_the_engine_of_this_machines_gpu(store: Store, l4: None) -> None:
    add_engine(store, "fp16-h100-sm90", "h100-sm90")
    with pytest.raises(
        BrokenBundle,
        match=r"no engine for sm89 \(L4\); "
        r"build one with `samserve models engine nano --target here`",
    ):
        store.load("nano:here")
    add_engine(store, "fp16-l4-sm89", "l4-sm89")
    bundle = store.load("nano:here")
    assert bundle.variant.name == "fp16-l4-sm89"
    assert bundle.model_version in store.load("nano").versions


def test_here_without_a_gpu_is_refused(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrokenBundle, match="this machine has none"):
        store.load("nano:here")


def test_the_repository_command_writes_what_triton_serves(
    store: Store, l4: None, tmp_path: Path
) -> None:
    add_engine(store, "fp16-l4-sm89", "l4-sm89")
    shutil.copytree(SHIPPED / "nano", store.folder / "twin")
    facts = json.loads((store.folder / "twin" / "model.json").read_text())
    (store.folder / "twin" / "model.json").write_text(json.dumps({**facts, "name": "twin"}))
    out = tmp_path / "repository"
    result = CliRunner().invoke(
        app, ["repository", "--model", "nano:here", "--model", "twin", "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert (out / "nano" / "1" / "model.plan").read_bytes() == b"fp16-l4-sm89"
    assert "KIND_GPU" in (out / "nano" / "config.pbtxt").read_text()
    assert (out / "twin" / "1" / "model.py").is_file()


def test_the_repository_command_refuses_a_variant_that_has_not_passed(
    store: Store, tmp_path: Path
) -> None:
    nano = store.load_writable("nano")
    folder = nano.path / VARIANTS / "odd"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"graph")
    facts = {"backend": ONNXRUNTIME, "model": "model.onnx", "precision": "fp16"}
    write_variant(folder, nano.name, nano.facts["preprocessing"], facts)
    result = CliRunner().invoke(
        app, ["repository", "--model", "nano:odd", "--out", str(tmp_path / "repository")]
    )
    assert result.exit_code == 1
    assert "nano:odd has not passed the gate" in result.output
    assert not (tmp_path / "repository").exists()
