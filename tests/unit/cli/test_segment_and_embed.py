"""Which images `segment` and `embed` take, and what they pass on to the client."""

from __future__ import annotations

import io
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from samserve.cli.embed import find_images
from samserve.cli.main import app
from samserve.client import Answer, BulkResult, CacheStatus, Client, Mask
from samserve.core.geometry import Size
from samserve.core.rle import encode_rle
from samserve.core.runs import runs_of
from typer.testing import CliRunner

SIZE = Size(6, 4)


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("DECODER_URL", "127.0.0.1:1")
    monkeypatch.setenv("EMBEDDING_URL", "127.0.0.1:1")
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (SIZE.width, SIZE.height)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the commands ask of the client."""
    sent: dict[str, Any] = {}
    connect = Client.__init__

    def init(self: Client, *args: Any, **options: Any) -> None:
        sent.update(options)
        connect(self, *args, **options)

    def segment(_: Client, image: bytes, points: object, **options: Any) -> Answer:
        sent.update(options, image=image)
        rle = encode_rle(runs_of(np.ones((SIZE.height, SIZE.width), bool)))
        mask = Mask(SIZE, rle, 0.9, 0.9, 24, (0, 0, 6, 4), b"", b"", [], b"")
        return Answer("ab", "nano-1", SIZE, CacheStatus.HIT, {}, [[mask]])

    def embed_many(_: Client, images: Iterable[Path], **options: Any) -> Generator[BulkResult]:
        sent.update(options, images=list(images))
        yield from ()

    monkeypatch.setattr(Client, "__init__", init)
    monkeypatch.setattr(Client, "segment", segment)
    monkeypatch.setattr(Client, "embed_many", embed_many)
    return sent


def test_an_image_is_read_from_standard_input(sent: dict[str, Any], png: bytes) -> None:
    words = ["segment", "-", "--point", "1,1", "--out", "overlay.png"]
    result = CliRunner().invoke(app, words, input=png)
    assert result.exit_code == 0, result.output
    assert sent["image"] == png
    assert "standard input: HIT" in result.stdout
    assert Path("overlay.png").exists()


def test_timeout_and_clamp_reach_the_client(sent: dict[str, Any], png: bytes) -> None:
    Path("image.png").write_bytes(png)
    words = ["segment", "image.png", "--box", "-0.4,0,6.3,4", "--clamp", "--timeout", "300"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert (sent["timeout"], sent["clamp"], sent["box"].x0) == (300, True, -0.4)

    assert CliRunner().invoke(app, ["embed", "image.png", "--timeout", "7"]).exit_code == 0
    assert sent["timeout"] == 7


def test_folders_and_metadata_named_like_images_are_passed_over_with_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["a.jpg", "b.JFIF", "c.jpe", "d.MPO", "thumbs.jpg/e.png"]
    (tmp_path / "thumbs.jpg").mkdir()
    for name in (*names, "._a.jpg", "thumbs.jpg/._e.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert find_images(tmp_path) == sorted(tmp_path / name for name in names)
    assert "passed over 3 folders and macOS metadata files" in capsys.readouterr().err

    (tmp_path / "._a.jpg").unlink()
    assert find_images(tmp_path / "a.jpg") == [tmp_path / "a.jpg"]
    assert capsys.readouterr().err == ""
