import json
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from pycocotools import mask as coco
from samserve.training.coins import coins as truth


def test_the_demo_leaves_a_picture_and_a_result(tmp_path: Path, coins: Path) -> None:
    (tmp_path / "examples").mkdir()
    shutil.copy(coins, tmp_path / "examples")
    command = [sys.executable, "-m", "samserve.local.demo"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "HIT" in done.stderr
    result = json.loads((tmp_path / "build/demo/result.json").read_text())
    assert (result["cache"], result["width"], result["height"], len(result["masks"])) == (
        "MISS",
        384,
        303,
        3,
    )
    _, labels = truth()
    wanted, got = labels == labels[193, 213], coco.decode(result["masks"][0]["rle"]).astype(bool)
    assert (wanted & got).sum() / (wanted | got).sum() > 0.8
    with Image.open(tmp_path / "build/demo/overlay.png") as picture:
        assert picture.size == (1536, 1212)
