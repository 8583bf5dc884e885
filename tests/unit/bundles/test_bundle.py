import json
import shutil
from pathlib import Path

import pytest
from samserve.bundles.bundle import DECODER, ENCODER, find_bundles, load_bundle, write_facts
from samserve.bundles.files import BrokenBundle
from samserve.bundles.names import SHIPPED

NANO = SHIPPED / "nano"
MAX_BYTES = 16 * 2**20


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(NANO, tmp_path / "nano"))


def test_the_shipped_model_is_complete_and_small() -> None:
    nano = load_bundle(NANO)
    assert nano.name == "nano"
    assert nano.embedding == {"embedding": (256, 64, 64)}
    assert sum(file.stat().st_size for file in NANO.iterdir()) <= MAX_BYTES
    assert NANO in find_bundles(SHIPPED)


def test_a_damaged_file_is_named(copy: Path) -> None:
    damaged = bytearray((copy / DECODER).read_bytes())
    damaged[1000] ^= 1
    (copy / DECODER).write_bytes(damaged)
    with pytest.raises(BrokenBundle, match=DECODER):
        load_bundle(copy)


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / DECODER).unlink()
    with pytest.raises(BrokenBundle, match=f"{DECODER} is missing"):
        load_bundle(copy)


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BrokenBundle, match="not a model bundle"):
        load_bundle(tmp_path)


def test_a_bundle_of_a_later_format_is_refused(copy: Path) -> None:
    facts = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps({**facts, "format": 99}))
    with pytest.raises(BrokenBundle, match="unsupported format 99"):
        load_bundle(copy)


def test_a_model_version_that_no_request_could_name_is_refused(copy: Path) -> None:
    facts = json.loads((copy / "model.json").read_text())
    for length in (64, 65):
        version = "v" * length
        (copy / "model.json").write_text(json.dumps({**facts, "model_version": version}))
        if length == 64:
            assert load_bundle(copy).model_version == version
            continue
        with pytest.raises(BrokenBundle, match="65 characters; the limit is 64"):
            load_bundle(copy)


def test_weights_beside_the_encoders_graph_are_part_of_the_version(copy: Path) -> None:
    facts = {
        name: fact
        for name, fact in load_bundle(copy).facts.items()
        if name not in ("files", "model_version")
    }
    versions = set()
    for weights in (None, b"some", b"others"):
        if weights is not None:
            (copy / f"{ENCODER}.data").write_bytes(weights)
        write_facts(copy, facts)
        versions.add(load_bundle(copy).model_version)
    assert len(versions) == 3
    assert load_bundle(NANO).model_version in versions
