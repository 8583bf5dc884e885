import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import meta_sam
from samserve.bundles.bundle import ENCODER, load_bundle
from samserve.cli.main import app
from samserve.export import convert as converting
from samserve.export.checkpoints.checkpoint import Checkpoint
from samserve.export.checkpoints.read import read_checkpoint
from samserve.export.compare import ExportMismatch, beyond_rounding
from typer.testing import CliRunner, Result


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return meta_sam(tmp_path_factory.mktemp("sam") / "mini.pth")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAMSERVE_BUNDLES", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Exports write a placeholder; the returned differences can be changed."""

    def export(_checkpoint: Checkpoint, bundle: Path, _say: object) -> dict[str, tuple[int, ...]]:
        (bundle / ENCODER).write_text("a graph")
        return {"embedding": (256, 16, 16)}

    differences = {"embedding": 1e-6, "low_res_logits": 2e-6}
    monkeypatch.setattr(converting, "export", export)
    monkeypatch.setattr(converting, "differences", lambda _bundle, _checkpoint: differences)
    return differences


def export(checkpoint: Path, name: str, *more: str) -> Result:
    return CliRunner().invoke(
        app, ["models", "export", "--checkpoint", str(checkpoint), "--name", name, *more]
    )


@pytest.mark.usefixtures("quick")
def test_an_exported_model_is_in_the_store_with_its_facts(store: Path, checkpoint: Path) -> None:
    answer = export(checkpoint, "mine", "--json")
    assert answer.exit_code == 0, answer.output
    facts = json.loads(answer.stdout)
    bundle = load_bundle(store / "mine")
    assert facts["model_version"] == bundle.model_version
    assert facts["differences"] == {"embedding": 1e-6, "low_res_logits": 2e-6}
    assert (bundle.family, bundle.frame.side, bundle.frame.stretch, bundle.low_res) == (
        "sam",
        256,
        False,
        64,
    )
    assert bundle.facts["sizes"]["width"] == 64
    assert bundle.facts["sizes"]["depth"] == 2
    assert bundle.facts["source"]["file"] == "mini.pth"
    assert [path.name for path in store.iterdir()] == ["mine"]


@pytest.mark.usefixtures("quick")
def test_a_name_that_is_taken_is_refused_and_its_model_kept(store: Path, checkpoint: Path) -> None:
    export(checkpoint, "mine")
    before = (store / "mine" / "model.json").read_bytes()
    again = export(checkpoint, "mine", "--json")
    assert again.exit_code == 2
    assert "already" in json.loads(again.stdout)["error"]
    assert (store / "mine" / "model.json").read_bytes() == before


def test_an_invalid_checkpoint_or_name_is_the_callers_mistake(
    store: Path, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "page.pth").write_text("<html>")
    for given, name in (
        (tmp_path / "page.pth", "mine"),
        (tmp_path / "absent.pth", "mine"),
        (checkpoint, "My Model"),
    ):
        answer = export(given, name, "--json")
        assert answer.exit_code == 2, answer.output
        assert json.loads(answer.stdout)["error"]
    assert not store.exists()


@pytest.mark.parametrize("difference", [2e-3, float("nan")])
def test_a_bundle_that_differs_from_pytorch_is_not_kept(
    difference: float, quick: dict[str, float], store: Path, checkpoint: Path
) -> None:
    quick["low_res_logits"] = difference
    with pytest.raises(ExportMismatch, match="low_res_logits differs"):
        converting.convert(read_checkpoint(checkpoint), "mine", store / "mine", print)
    assert list(store.iterdir()) == []
    assert export(checkpoint, "mine").exit_code == 1


def test_rounding_to_fp16_is_no_difference_and_all_beyond_it_is() -> None:
    wanted = np.linspace(-4, 4, 10_001, dtype=np.float32)
    assert beyond_rounding(wanted.astype(np.float16), wanted) <= 1e-7
    assert beyond_rounding((wanted + np.float32(0.04)).astype(np.float16), wanted) == pytest.approx(
        0.01, rel=0.1
    )
    assert np.isnan(beyond_rounding(np.full_like(wanted, np.nan, np.float16), wanted))


def test_without_torch_the_command_says_what_to_install(store: Path, checkpoint: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from samserve.cli.main import app; app()"
    command = [
        sys.executable,
        "-c",
        code,
        "models",
        "export",
        "--checkpoint",
        str(checkpoint),
        "--name",
        "mine",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "pip install 'samserve[train]'" in result.stderr
    assert not store.exists()
