from pathlib import Path

import numpy as np
import pytest
from samserve.core.geometry import Frame
from samserve.variants.gate.images import SIZES, draw, encode_png, gate_images

FRAME = Frame(1024)


def test_drawn_images_are_the_same_each_time_and_differ_from_each_other() -> None:
    first, again, other = (np.asarray(draw(number)) for number in (5, 5, 4))
    assert np.array_equal(first, again)
    assert first.shape != other.shape


def test_eight_images_of_many_shapes_are_drawn() -> None:
    assert len(SIZES) >= 8
    assert len({width / height for width, height in SIZES}) >= 5


def test_a_folders_images_are_sorted_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.PNG"):
        (tmp_path / name).write_bytes(encode_png(draw(6)))
    (tmp_path / "notes.txt").write_text("no image")
    assert [image.name for image in gate_images(FRAME, tmp_path)] == ["a.PNG", "b.png"]


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        gate_images(FRAME, tmp_path)
