"""The command line against the real stack."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from samserve.coco.read import read_dataset
from samserve.local.stack import Stack

SAMSERVE = [sys.executable, "-m", "samserve.cli.main"]


@pytest.fixture
def environment(stack: Stack, tmp_path: Path) -> dict[str, str]:
    addresses = stack.addresses
    return {
        **os.environ,
        "DECODER_URL": addresses.decoder,
        "EMBEDDING_URL": addresses.embedding,
        "XDG_STATE_HOME": str(tmp_path),
        "COLUMNS": "120",
    }


def run(environment: dict[str, str], *words: object) -> subprocess.CompletedProcess[str]:
    command = [*SAMSERVE, *map(str, words)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_segment_prints_json_and_draws(
    environment: dict[str, str], coins: Path, tmp_path: Path
) -> None:
    drawing = tmp_path / "overlay.png"
    result = run(environment, "segment", coins, "--point", "213,193", "--out", drawing, "--json")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert (answer["width"], answer["height"]) == (384, 303)
    assert answer["cache"] in ("HIT", "MISS")
    assert {"embedding", "decode", "masks"} <= set(answer["timings_ms"])
    assert len(answer["masks"]) == 3
    for mask in answer["masks"]:
        pixels = coco.decode(mask["rle"])
        assert pixels.shape == (303, 384)
        assert pixels.sum() == mask["area"]
    image, drawn = Image.open(coins).convert("RGB"), Image.open(drawing)
    assert drawn.size == (384 * 4, 303 * 4)
    assert not np.array_equal(np.asarray(drawn), np.asarray(image.resize(drawn.size)))


def test_everything_in_an_image_is_segmented_with_crops(
    environment: dict[str, str], coins: Path, tmp_path: Path
) -> None:
    words = ["everything", coins, "--points", "4", "--crops", "1", "--iou", "0.4"]
    options = ["--stability", "0.6", "--min-area", "50", "--out", tmp_path, "--json"]
    result = run(environment, *words, *options)
    assert result.returncode == 0, result.stderr
    first, last = map(json.loads, result.stdout.splitlines())
    assert first["path"] == "coins.png" and first["masks"] == last["masks"] > 0

    dataset = read_dataset((tmp_path / "annotations.json").read_bytes())
    assert [image.file_name for image in dataset.images] == ["coins.png"]
    assert len(dataset.annotations) == first["masks"]
    boxes = {tuple(each.extra["crop_box"]) for each in dataset.annotations}
    assert len(boxes) > 1  # whole image and crops
    with Image.open(tmp_path / "overlays" / "coins.png.png") as drawing:
        assert drawing.size == (384, 303)

    again = run(environment, *words, *options)
    assert json.loads(again.stdout.splitlines()[-1])["known"] == 1


def test_segment_prints_a_table_for_people(environment: dict[str, str], coins: Path) -> None:
    result = run(environment, "segment", coins, "--box", "260,100,310,150", "--no-multimask")
    assert result.returncode == 0, result.stderr
    assert "predicted IoU" in result.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["segment", "nowhere.png", "--point", "1,1"], "file not found: nowhere.png"),
        (["segment", "COINS", "--point", "one,two"], "invalid point 'one,two'"),
        (["segment", "COINS", "--box", "1,2,3"], "invalid box '1,2,3'"),
        (["segment", "COINS"], "give at least one point, box or mask"),
        (["segment", "COINS", "--point", "9999,1"], "outside the image, which is 384 x 303"),
        (
            ["segment", "COINS", "--point", "1,1", "--model", "sam9"],
            "unknown model 'sam9'; available: nano",
        ),
        (["segment", "NO_IMAGE", "--point", "1,1"], "unsupported or damaged image"),
        (["models", "show", "sam9"], "unknown model 'sam9'; available: nano"),
        (["up", "--model", "nano", "--model", "sam9"], "unknown model 'sam9'; available: nano"),
        (["up", "--model", "nano:int9"], "unknown variant 'int9' of model 'nano'; available: fp32"),
        (["up", "--model", "nano", "--model", "nano:int8"], "give each model once"),
    ],
)
def test_a_callers_mistake_is_one_sentence_and_exit_code_2(
    environment: dict[str, str], coins: Path, tmp_path: Path, words: list[str], says: str
) -> None:
    text = tmp_path / "text.png"
    text.write_text("text")
    result = run(
        environment, *[{"COINS": coins, "NO_IMAGE": text}.get(word, word) for word in words]
    )
    assert result.returncode == 2, result.stderr
    assert says in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_without_a_stack_a_command_fails_and_says_what_to_do(
    environment: dict[str, str], coins: Path
) -> None:
    alone = {
        name: value
        for name, value in environment.items()
        if name not in ("DECODER_URL", "EMBEDDING_URL")
    }
    for words in (["status"], ["segment", coins, "--point", "1,1"]):
        result = run(alone, *words)
        assert result.returncode == 1
        assert "samserve up" in result.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three new images, one of them in a subfolder, and a file that is no image."""
    folder = tmp_path / "images"
    (folder / "deeper").mkdir(parents=True)
    for name in ("a.png", "b.PNG", "deeper/c.png"):
        pixels = np.frombuffer(os.urandom(30 * 40 * 3), np.uint8).reshape(30, 40, 3)
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_embed_warms_a_folder_and_counts(environment: dict[str, str], folder: Path) -> None:
    (folder / "broken.jpg").write_bytes(b"broken")
    first = run(environment, "embed", folder)
    assert first.returncode == 2
    assert "4 images: 3 embedded, 0 already cached, 0 coalesced, 1 failed" in first.stdout
    assert "broken.jpg: unsupported or damaged image" in first.stderr
    (folder / "broken.jpg").unlink()
    second = run(environment, "embed", folder, "--json")
    assert second.returncode == 0
    *lines, counts = map(json.loads, second.stdout.splitlines())
    assert sorted(Path(line["path"]).name for line in lines) == ["a.png", "b.PNG", "c.png"]
    assert {line["cache"] for line in lines} == {"HIT"}
    assert counts == {"images": 3, "embedded": 0, "known": 3, "coalesced": 0, "failed": 0}


def test_embed_without_an_image_is_the_callers_mistake(
    environment: dict[str, str], tmp_path: Path
) -> None:
    for path, says in ((tmp_path, "no images in"), (tmp_path / "nowhere", "file not found")):
        result = run(environment, "embed", path)
        assert result.returncode == 2
        assert says in result.stderr


def test_embed_with_an_unknown_model_stops_at_once(
    environment: dict[str, str], folder: Path
) -> None:
    result = run(environment, "embed", folder, "--model", "sam9")
    assert result.returncode == 2
    assert "unknown model 'sam9'; available: nano" in " ".join(result.stderr.split())


def test_an_interrupted_embed_reports_its_progress(
    environment: dict[str, str], folder: Path
) -> None:
    os.mkfifo(folder / "z.png")  # a read of it blocks
    started = subprocess.Popen(
        [*SAMSERVE, "embed", str(folder), "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    for _ in range(3):
        assert "cache" in json.loads(started.stdout.readline())
    writer = os.open(folder / "z.png", os.O_WRONLY)
    started.send_signal(signal.SIGINT)
    time.sleep(1)  # it stops before the file ends, and does not open it again
    os.close(writer)
    stdout, stderr = started.communicate(timeout=30)
    assert started.returncode == 130, stderr
    assert json.loads(stdout.splitlines()[-1])["embedded"] == 3
    assert "interrupted; 1 of 4 images left; run the same command again to continue" in " ".join(
        stderr.split()
    )
    assert "Traceback" not in stderr


def test_models_are_listed(environment: dict[str, str]) -> None:
    listed = json.loads(run(environment, "models", "list", "--json").stdout)
    assert [model["name"] for model in listed] == ["nano"]
    assert listed[0]["model_version"] in run(environment, "models", "list").stdout


def test_up_runs_until_interrupted_and_status_reports_it(
    stack: Stack, environment: dict[str, str], coins: Path
) -> None:
    addresses = stack.addresses
    environment = {**environment, "REDIS_URL": addresses.redis, "TRITON_URL": addresses.triton}
    del environment["DECODER_URL"], environment["EMBEDDING_URL"]
    command = [*SAMSERVE, "up", "--embedding-port", "0", "--decoder-port", "0"]
    up = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        state = run(environment, "status", "--wait", "90", "--json")
        assert state.returncode == 0, state.stderr
        report = json.loads(state.stdout)
        assert report["ready"]
        assert report["models"] == ["nano"]
        assert report["addresses"]["redis"] == addresses.redis
        assert run(environment, "segment", coins, "--point", "213,193").returncode == 0
        assert "already runs" in run(environment, "up").stderr
    finally:
        up.send_signal(signal.SIGINT)
        _, stderr = up.communicate(timeout=60)
    assert up.returncode == 0, stderr
    assert run(environment, "status").returncode == 1
