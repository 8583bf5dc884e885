import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from samserve.bundles.bundle import load_bundle
from samserve.bundles.names import SHIPPED
from samserve.variants.compiler import RTX, STANDARD, EngineRefused, Layer, check_types
from samserve.variants.engine import ENGINES, Engine, Profile, publish_engine


@dataclass
class Report:
    passed: bool

    def as_json(self) -> dict[str, Any]:
        return {"passed": self.passed, "mean_iou": 0.999}


def engine(bundle: Path, compiler: str, plan: bytes = b"a plan") -> Engine:
    (bundle / ENGINES).mkdir(exist_ok=True)
    file = bundle / ENGINES / f"l4-{plan.hex()}.plan"
    file.write_bytes(plan)
    facts = {
        "compiler": compiler,
        "target": "l4-sm89",
        "gpu": "L4",
        "precision": "fp16",
        "profile": [1, 4, 8],
    }
    return Engine(file, facts, built=True)


@pytest.fixture
def nano(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED / "nano", tmp_path / "nano"))


def test_an_engine_that_passed_the_gate_becomes_a_variant(nano: Path) -> None:
    folder = publish_engine(load_bundle(nano), engine(nano, STANDARD), Report(passed=True))
    bundle = load_bundle(nano, folder.name)
    assert (folder.name, bundle.variant.backend) == ("fp16-l4-sm89", "tensorrt")
    assert bundle.variant.model.read_bytes() == b"a plan"
    assert bundle.variant.facts["profile"] == [1, 4, 8]
    assert bundle.variant.facts["gate"] == {"passed": True, "mean_iou": 0.999}
    assert bundle.model_version != load_bundle(nano).model_version


def test_a_new_engine_replaces_the_earlier_one(nano: Path) -> None:
    bundle = load_bundle(nano)
    first = publish_engine(bundle, engine(nano, STANDARD), Report(passed=True))
    before = load_bundle(nano, first.name).model_version
    publish_engine(bundle, engine(nano, STANDARD, b"another plan"), Report(passed=True))
    assert load_bundle(nano, first.name).model_version != before
    assert json.loads((first / "variant.json").read_text())["files"].keys() == {"model.plan"}


@pytest.mark.parametrize(
    ("compiler", "passed", "reason"),
    [(STANDARD, False, "has not passed the gate"), (RTX, True, "Triton runs plans of")],
)
def test_an_engine_that_must_not_be_served_is_not_published(
    nano: Path, compiler: str, passed: bool, reason: str
) -> None:
    with pytest.raises(EngineRefused, match=reason):
        publish_engine(load_bundle(nano), engine(nano, compiler), Report(passed))
    assert not (nano / "variants").exists()


@pytest.mark.parametrize("text", ["", "4", "1,4", "4,1,8", "0,1,2", "1,4,x", "1,4,8,16"])
def test_an_invalid_batch_profile_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"invalid batch profile .* such as 1,4,8"):
        Profile.parse(text)


def test_a_normalisation_in_halves_is_refused_and_named() -> None:
    check_types([Layer("norm 1", "NORMALIZATION", ("FLOAT", "FLOAT", "FLOAT"), ("FLOAT",))])
    with pytest.raises(EngineRefused, match="norm 2 would be computed in HALF"):
        check_types([Layer("norm 2", "NORMALIZATION", ("HALF", "HALF", "HALF"), ("HALF",))])
