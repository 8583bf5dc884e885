"""What `samserve everything` asks for, writes and continues."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from PIL import Image
from samserve.cli.main import app
from samserve.client import CacheStatus, Client, Everything, Mask, Polygon, Record
from samserve.coco.read import read_dataset
from samserve.core.errors import InvalidInput, Unavailable
from samserve.core.geometry import Size
from samserve.core.image_id import image_id
from samserve.core.rle import encode_rle
from samserve.core.runs import Runs, runs_of
from samserve.local.overlay_all import paint, palette
from typer.testing import CliRunner

SIZE = Size(60, 40)


def mask() -> np.ndarray:
    pixels = np.zeros((SIZE.height, SIZE.width), bool)
    pixels[5:20, 10:30] = True
    return pixels


def record(ask: tuple[float, float] | None = None) -> Record:
    ring = np.array([[10, 5], [10, 20], [30, 20], [30, 5]], np.float32)
    rle = encode_rle(runs_of(mask()))
    found = Mask(SIZE, rle, 0.9, 0.97, 300, (10, 5, 30, 20), b"", b"", [Polygon(ring, [])], b"")
    return Record(found, (12.5, 6.0), (0, 0, 60, 40), ask is None, 0.25, ask)


class Asked:
    """What the command asked of the client; `failures` of the next images."""

    def __init__(self) -> None:
        self.images: list[bytes] = []
        self.options: list[Any] = []
        self.accepted: list[Any] = []
        self.failures: list[BaseException] = []

    def answer(self, image: bytes, options: Any, on_progress: Any) -> Everything:
        self.images.append(image)
        self.options.append(options)
        on_progress(0, 9)
        if self.failures:
            raise self.failures.pop(0)
        on_progress(9, 9)
        return Everything(image_id(image), "nano-1", SIZE, CacheStatus.HIT, {}, [record()], 1)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("DECODER_URL", "127.0.0.1:1")
    monkeypatch.setenv("EMBEDDING_URL", "127.0.0.1:1")
    monkeypatch.setenv("COLUMNS", "200")
    images = tmp_path / "images"
    (images / "more").mkdir(parents=True)
    for number, name in enumerate(["a.png", "b.png", "more/c.png"]):
        out = io.BytesIO()
        Image.new("RGB", (SIZE.width, SIZE.height), (number, 0, 0)).save(out, "PNG")
        (images / name).write_bytes(out.getvalue())
    return images


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked = Asked()

    def generate(_: Client, image: bytes, options: Any, *, formats: Any, on_progress: Any) -> Any:
        return asked.answer(image, options, on_progress)

    def propose(
        _: Client, image: bytes, accepted: Any, options: Any, *, formats: Any, on_progress: Any
    ) -> Any:
        asked.accepted.append(accepted)
        return asked.answer(image, options, on_progress)

    monkeypatch.setattr(Client, "generate_masks", generate)
    monkeypatch.setattr(Client, "propose", propose)
    return asked


def run(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["everything", *words, "--out", "masks"])
    assert result.exit_code == code, result.output
    return result.stdout


def test_a_folder_becomes_annotations_and_overlays(asked: Asked) -> None:
    assert "3 masks of 3 images: masks/annotations.json" in run("images", "--points", "8")
    assert asked.options[0].points_per_side == 8

    dataset = read_dataset(Path("masks/annotations.json").read_bytes())
    assert [image.file_name for image in dataset.images] == ["a.png", "b.png", "more/c.png"]
    assert [each.id for each in dataset.annotations] == [1, 2, 3]
    assert dataset.annotations[0].extra == {
        "predicted_iou": 0.9,
        "stability_score": 0.97,
        "point_coords": [[12.5, 6.0]],
        "crop_box": [0, 0, 60, 40],
        "sure": True,
        "disagreement": 0.25,
    }
    with Image.open("masks/overlays/more/c.png.png") as drawing:
        assert drawing.size == (60, 40)
        assert drawing.getpixel((20, 12)) != drawing.getpixel((50, 30)) == (2, 0, 0)


def test_an_interrupted_run_is_continued(asked: Asked, folder: Path) -> None:
    asked.failures = [KeyboardInterrupt()]
    run("images/a.png", code=130)
    run("images/a.png")
    assert len(asked.images) == 2

    asked.failures = [Unavailable("the decoder is down")]
    lines = run("images", "--json", code=1).splitlines()
    assert orjson.loads(lines[-1])["error"].startswith("the decoder is down; 2 of 3 images left")
    assert orjson.loads(lines[-1])["known"] == 1

    (folder / "a.png").write_bytes((folder / "b.png").read_bytes())  # its bytes changed
    run("images")
    assert [image_id(each) for each in asked.images[3:]] == [
        image_id((folder / name).read_bytes()) for name in ("a.png", "b.png", "more/c.png")
    ]
    run("images")
    assert len(asked.images) == 6
    run("images", "--min-area", "5")
    assert len(asked.images) == 9


def test_a_line_that_a_crash_cut_off_is_ignored(asked: Asked) -> None:
    run("images/a.png")
    journal = Path("masks/annotations.jsonl")
    journal.write_bytes(journal.read_bytes() + b'{"file_name": "b.png", "ima')
    run("images")
    assert len(asked.images) == 3
    assert len(read_dataset(Path("masks/annotations.json").read_bytes()).images) == 3


def test_a_bad_image_fails_alone(asked: Asked) -> None:
    asked.failures = [InvalidInput("data", "unsupported or damaged image")]
    lines = [orjson.loads(line) for line in run("images", "--json", code=2).splitlines()]
    assert lines[0] == {"path": "a.png", "error": "unsupported or damaged image", "retry": False}
    assert (lines[-1]["images"], lines[-1]["failed"]) == (2, 1)


def test_what_is_left_beside_accepted_annotations_is_asked_for(asked: Asked) -> None:
    run("images/a.png", "--polygons")
    accepted = Path("accepted.json")
    accepted.write_bytes(Path("masks/annotations.json").read_bytes())
    assert orjson.loads(accepted.read_bytes())["annotations"][0]["segmentation"] == [
        [10, 5, 10, 20, 30, 20, 30, 5]
    ]
    run("images", "--beside", "accepted.json")
    (first,), second, third = asked.accepted
    assert isinstance(first, Runs) and np.array_equal(first.changes, runs_of(mask()).changes)
    assert not second and not third


def test_bad_annotations_are_refused(asked: Asked) -> None:
    Path("bad.json").write_text('{"annotations": [{"id": 1, "image_id": 5}]}')
    result = CliRunner().invoke(app, ["everything", "images", "--beside", "bad.json"])
    assert result.exit_code == 2
    assert "annotations[0].image_id: unknown image 5" in result.output
    assert not asked.images


def test_small_masks_lie_on_top_in_colours_that_differ() -> None:
    large, small = np.ones((40, 60), bool), mask()
    labels = paint([runs_of(small), runs_of(large)], (30, 20))
    assert labels.shape == (20, 30)
    assert labels[5, 10] == 1 and labels[0, 0] == labels[-1, -1] == 2
    assert len(set(palette(200))) == 200
