"""`samserve models pull`, from a file server on this machine."""

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from checkpoints import meta_sam
from click.testing import Result
from samserve.bundles.store import Store
from samserve.cli.models import app
from typer.testing import CliRunner


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves the files of a folder, without logs."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


@pytest.fixture
def mirror(files: Path) -> Iterator[str]:
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(QuietHandler, directory=str(files))
    ) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SAMSERVE_BUNDLES", str(tmp_path / "bundles"))
    monkeypatch.setenv("COLUMNS", "200")
    return Store(tmp_path / "bundles")


def pull(*words: str) -> Result:
    return CliRunner().invoke(app, ["pull", *words])


def test_a_checkpoint_is_fetched_and_becomes_a_bundle(
    store: Store, files: Path, mirror: str
) -> None:
    meta_sam(files / "sam.pth")
    digest = hashlib.sha256((files / "sam.pth").read_bytes()).hexdigest()
    result = pull("sam-vit-b", "--url", f"{mirror}/sam.pth", "--sha256", digest, "--json")
    assert result.exit_code == 0, result.output
    bundle = store.load("sam-vit-b")
    assert bundle.facts["source"]["sha256"] == digest
    (files / "sam.pth").unlink()
    again = pull("sam-vit-b", "--url", f"{mirror}/sam.pth", "--json")
    assert json.loads(again.stdout)["model_version"] == bundle.model_version


def test_a_file_with_another_digest_is_refused_and_deleted(
    store: Store, files: Path, mirror: str
) -> None:
    (files / "sam.pth").write_bytes(b"no checkpoint")
    result = pull("sam-vit-b", "--url", f"{mirror}/sam.pth")
    assert result.exit_code == 1
    assert "has the SHA-256" in result.output
    assert not list(store.folder.glob(".checkpoints/*"))


def test_a_file_with_the_right_digest_must_still_be_a_checkpoint(
    store: Store, files: Path, mirror: str
) -> None:
    (files / "sam.pth").write_bytes(b"no checkpoint")
    digest = hashlib.sha256(b"no checkpoint").hexdigest()
    result = pull("sam-vit-b", "--url", f"{mirror}/sam.pth", "--sha256", digest)
    assert result.exit_code == 2
    assert "samserve:" in result.output
    assert not (store.folder / "sam-vit-b").exists()


def test_an_unknown_name_lists_the_available_ones(store: Store) -> None:
    result = pull("sam-vit-z")
    assert result.exit_code == 2
    assert "sam2.1-large" in result.output


def test_a_gated_model_is_refused_with_where_to_ask_and_what_to_do_then(store: Store) -> None:
    result = pull("sam3")
    assert result.exit_code == 2
    assert "gated; ask for them at https://huggingface.co/facebook/sam3" in result.output
    assert "samserve models export --checkpoint FOLDER --name sam3" in result.output
