import json
from dataclasses import replace
from pathlib import Path

import pytest
from samserve.bundles.bundle import Bundle, load_bundle, variant_names
from samserve.bundles.names import SHIPPED
from samserve.variants.gate.judge import Report, Thresholds
from samserve.variants.gate.trial import ReferenceRun, Trial, publish_trial
from samserve.variants.quantise import write_cpu_variant

REFERENCE = ReferenceRun([], milliseconds=900.0)
PASSED = Report(True, [], Thresholds(), 1.0, 53, 0, 1.0, 1.0, [])
REFUSED = replace(
    PASSED, passed=False, reasons=["mean IoU of the masks is 0.9, required: 0.99"], mean_iou=0.9
)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    folder = tmp_path / "nano"
    folder.mkdir()
    for file in (SHIPPED / "nano").iterdir():
        if file.is_file():
            (folder / file.name).symlink_to(file)
    return load_bundle(folder)


def trial(bundle: Bundle, report: Report) -> Trial:
    folder = bundle.path / "aside" / "cpu-bf16"
    write_cpu_variant(bundle, "bf16", folder)
    return Trial("bf16", folder, report, milliseconds=300.0)


def test_a_variant_that_has_not_passed_is_not_published(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="has not passed"):
        publish_trial(bundle, trial(bundle, REFUSED), REFERENCE)
    assert variant_names(bundle.path) == []


def test_a_published_variant_contains_the_gates_report_and_its_speed(bundle: Bundle) -> None:
    name = publish_trial(bundle, trial(bundle, PASSED), REFERENCE)
    variant = load_bundle(bundle.path, name).variant
    assert variant.facts["gate"] == json.loads(json.dumps(PASSED.as_json()))
    assert variant.facts["speed"] == {"milliseconds": 300.0, "exported_milliseconds": 900.0}


def test_a_new_variant_replaces_the_old_one(bundle: Bundle) -> None:
    publish_trial(bundle, trial(bundle, PASSED), REFERENCE)
    publish_trial(bundle, trial(bundle, replace(PASSED, masks=99)), REFERENCE)
    assert load_bundle(bundle.path, "cpu-bf16").variant.facts["gate"]["masks"] == 99
