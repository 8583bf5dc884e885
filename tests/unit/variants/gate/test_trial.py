import json
from dataclasses import replace
from pathlib import Path

import pytest
from samserve.bundles.bundle import Bundle, load_bundle, variant_names
from samserve.bundles.names import SHIPPED
from samserve.variants.gate.judge import Report, Thresholds
from samserve.variants.gate.trial import Reference, Trial, publish
from samserve.variants.quantise import write

REFERENCE = Reference([], milliseconds=900.0)
PASSED = Report(True, [], Thresholds(), 1.0, 53, 0, 1.0, 1.0, [])
REFUSED = replace(
    PASSED, passed=False, reasons=["the masks' mean IoU is 0.9, not 0.99"], mean_iou=0.9
)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    folder = tmp_path / "nano"
    folder.mkdir()
    for file in (SHIPPED / "nano").iterdir():
        if file.is_file():
            (folder / file.name).symlink_to(file)
    return load_bundle(folder)


def tried(bundle: Bundle, report: Report) -> Trial:
    folder = bundle.path / "aside" / "cpu-bf16"
    write(bundle, "bf16", folder)
    return Trial("bf16", folder, report, milliseconds=300.0)


def test_what_has_not_passed_is_never_published(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="has not passed"):
        publish(bundle, tried(bundle, REFUSED), REFERENCE)
    assert variant_names(bundle.path) == []


def test_a_published_variant_tells_what_the_gate_found_and_how_fast_it_is(bundle: Bundle) -> None:
    name = publish(bundle, tried(bundle, PASSED), REFERENCE)
    variant = load_bundle(bundle.path, name).variant
    assert variant.facts["gate"] == json.loads(json.dumps(PASSED.as_json()))
    assert variant.facts["speed"] == {"milliseconds": 300.0, "exported_milliseconds": 900.0}


def test_a_newer_variant_takes_the_place_of_the_old(bundle: Bundle) -> None:
    publish(bundle, tried(bundle, PASSED), REFERENCE)
    publish(bundle, tried(bundle, replace(PASSED, masks=99)), REFERENCE)
    assert load_bundle(bundle.path, "cpu-bf16").variant.facts["gate"]["masks"] == 99
