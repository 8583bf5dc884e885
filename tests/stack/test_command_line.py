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
from samserve.local.stack import Stack

SAMSERVE = [sys.executable, "-m", "samserve.cli.main"]


@pytest.fixture
def environment(stack: Stack, tmp_path: Path) -> dict[str, str]:
    at = stack.addresses
    return {
        **os.environ,
        "DECODER_URL": at.decoder,
        "EMBEDDING_URL": at.embedding,
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
    done = run(environment, "segment", coins, "--point", "213,193", "--out", drawing, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["width"], answer["height"]) == (384, 303)
    assert answer["cache"] in ("HIT", "MISS")
    assert {"embedding", "decode", "masks"} <= set(answer["timings_ms"])
    assert len(answer["masks"]) == 3
    for mask in answer["masks"]:
        pixels = coco.decode(mask["rle"])
        assert pixels.shape == (303, 384)
        assert pixels.sum() == mask["area"]
    photo, shown = Image.open(coins).convert("RGB"), Image.open(drawing)
    assert shown.size == (384 * 4, 303 * 4)
    assert not np.array_equal(np.asarray(shown), np.asarray(photo.resize(shown.size)))


def test_segment_prints_a_table_for_people(environment: dict[str, str], coins: Path) -> None:
    done = run(environment, "segment", coins, "--box", "260,100,310,150", "--no-multimask")
    assert done.returncode == 0, done.stderr
    assert "predicted IoU" in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["segment", "nowhere.png", "--point", "1,1"], "no file nowhere.png"),
        (["segment", "COINS", "--point", "one,two"], "not a point"),
        (["segment", "COINS", "--box", "1,2,3"], "not a box"),
        (["segment", "COINS"], "give at least one point, box or mask"),
        (["segment", "COINS", "--point", "9999,1"], "outside the image, which is 384 x 303"),
        (
            ["segment", "COINS", "--point", "1,1", "--model", "sam9"],
            "no model 'sam9' here; there is: nano",
        ),
        (["segment", "NO_IMAGE", "--point", "1,1"], "no image in a known format"),
        (["models", "show", "sam9"], "no model 'sam9'; there is: nano"),
        (["up", "--model", "nano", "--model", "sam9"], "no model 'sam9'; there is: nano"),
        (["up", "--model", "nano:int9"], "nano has no variant 'int9'; it has: fp32"),
        (["up", "--model", "nano", "--model", "nano:int8"], "give each model once"),
    ],
)
def test_a_callers_mistake_is_one_sentence_and_exit_2(
    environment: dict[str, str], coins: Path, tmp_path: Path, words: list[str], says: str
) -> None:
    text = tmp_path / "text.png"
    text.write_text("no image at all")
    done = run(environment, *[{"COINS": coins, "NO_IMAGE": text}.get(word, word) for word in words])
    assert done.returncode == 2, done.stderr
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_no_stack_is_our_failure_and_says_what_to_do(
    environment: dict[str, str], coins: Path
) -> None:
    alone = {
        name: value
        for name, value in environment.items()
        if name not in ("DECODER_URL", "EMBEDDING_URL")
    }
    for words in (["status"], ["segment", coins, "--point", "1,1"]):
        done = run(alone, *words)
        assert done.returncode == 1
        assert "samserve up" in done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three photos that nobody has sent before, one of them in a folder of its own, and a file that is none."""
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    for name in ("a.png", "b.PNG", "deeper/c.png"):
        pixels = np.frombuffer(os.urandom(30 * 40 * 3), np.uint8).reshape(30, 40, 3)
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").write_text("not asked for")
    return folder


def test_embed_warms_a_folder_and_counts(environment: dict[str, str], folder: Path) -> None:
    (folder / "broken.jpg").write_bytes(b"broken")
    first = run(environment, "embed", folder)
    assert first.returncode == 2
    assert "4 images: 3 embedded, 0 known already, 0 coalesced, 1 failed" in first.stdout
    assert "broken.jpg: this is no image" in first.stderr
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
    for path, says in ((tmp_path, "no image in"), (tmp_path / "nowhere", "no file")):
        done = run(environment, "embed", path)
        assert done.returncode == 2
        assert says in done.stderr


def test_embed_with_an_unknown_model_stops_at_once(
    environment: dict[str, str], folder: Path
) -> None:
    done = run(environment, "embed", folder, "--model", "sam9")
    assert done.returncode == 2
    assert "no model 'sam9' here; there is: nano" in " ".join(done.stderr.split())


def test_embed_that_is_interrupted_tells_how_far_it_came(
    environment: dict[str, str], folder: Path
) -> None:
    os.mkfifo(folder / "z.png")  # never ends
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
    time.sleep(1)  # it is on its way out before the file ends, and does not open it again
    os.close(writer)
    printed, said = started.communicate(timeout=30)
    assert started.returncode == 130, said
    assert json.loads(printed.splitlines()[-1])["embedded"] == 3
    assert "interrupted, 1 images left: the same command goes on from here" in " ".join(
        said.split()
    )
    assert "Traceback" not in said


def test_models_are_listed(environment: dict[str, str]) -> None:
    listed = json.loads(run(environment, "models", "list", "--json").stdout)
    assert [model["name"] for model in listed] == ["nano"]
    assert listed[0]["model_version"] in run(environment, "models", "list").stdout


def test_up_runs_until_interrupted_and_status_tells(
    stack: Stack, environment: dict[str, str], coins: Path
) -> None:
    at = stack.addresses
    environment = {**environment, "REDIS_URL": at.redis, "TRITON_URL": at.triton}
    del environment["DECODER_URL"], environment["EMBEDDING_URL"]
    command = [*SAMSERVE, "up", "--embedding-port", "0", "--decoder-port", "0"]
    up = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        state = run(environment, "status", "--wait", "90", "--json")
        assert state.returncode == 0, state.stderr
        told = json.loads(state.stdout)
        assert told["ready"]
        assert told["models"] == ["nano"]
        assert told["addresses"]["redis"] == at.redis
        assert run(environment, "segment", coins, "--point", "213,193").returncode == 0
        assert "runs already" in run(environment, "up").stderr
    finally:
        up.send_signal(signal.SIGINT)
        _, said = up.communicate(timeout=60)
    assert up.returncode == 0, said
    assert run(environment, "status").returncode == 1
