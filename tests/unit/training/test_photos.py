import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco
from samserve.training.evaluation import judged_masks
from samserve.training.photos import (
    Photo,
    difference_hash,
    read_index,
    sampling_weights,
    without_duplicates,
)

SIZE = (96, 128)  # height, width


def squares(*corners: tuple[int, int], side: int = 10) -> list[np.ndarray]:
    masks = []
    for y, x in corners:
        mask = np.zeros(SIZE, bool)
        mask[y : y + side, x : x + side] = True
        masks.append(mask)
    return masks


def texture(seed: int) -> np.ndarray:
    cells = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), np.uint8)
    return cv2.resize(cells, SIZE[::-1], interpolation=cv2.INTER_CUBIC)


def grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)


def folder(path: Path, images: dict[str, np.ndarray], masks: list[np.ndarray]) -> Path:
    """A split with one line an image, whose source is the name before the dash."""
    path.mkdir()
    lines = []
    for name, image in images.items():
        cv2.imwrite(str(path / f"{name}.png"), image)
        rows = []
        for mask in masks:
            rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
            rle["counts"] = rle["counts"].decode()
            rows.append({"rle": rle, "area": int(mask.sum()), "kind": "object"})
        row = {"file": f"{name}.png", "width": 128, "height": 96, "masks": rows}
        lines.append(json.dumps({**row, "source": name.partition("-")[0]}))
    (path / "index.jsonl").write_text("\n".join(lines))
    return path


def test_an_index_gives_photos_with_their_masks(tmp_path: Path) -> None:
    masks = squares((2, 3), (30, 40))
    (photo,) = read_index(folder(tmp_path / "train", {"cups-1": texture(0)}, masks))
    assert (photo.source, photo.width, photo.height) == ("cups", 128, 96)
    assert photo.image().shape == (96, 128, 3)
    assert [outline.box for outline in photo.outlines] == [(3, 2, 10, 10), (40, 30, 10, 10)]
    for outline, mask in zip(photo.outlines, masks, strict=True):
        assert (outline.mask(96, 128) == mask).all()


def test_photos_without_masks_are_left_out(tmp_path: Path) -> None:
    assert read_index(folder(tmp_path / "train", {"cups-1": texture(0)}, [])) == []


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    photo = Photo(tmp_path / "gone.jpg", "cups", 4, 4, ())
    with pytest.raises(ValueError, match=r"unreadable image .*gone\.jpg"):
        photo.image()


def test_a_source_counts_by_the_square_root_of_its_photos() -> None:
    photos = [Photo(Path(), source, 4, 4, ()) for source in ["cups"] * 9 + ["forks"]]
    weights = sampling_weights(photos)
    assert weights.sum() == pytest.approx(1)
    assert weights[:9].sum() == pytest.approx(3 * weights[9])


def test_a_diverse_source_counts_more() -> None:
    weights = sampling_weights([Photo(Path(), s, 4, 4, ()) for s in ("coco_cc", "forks")])
    assert weights[0] == pytest.approx(2.5 * weights[1])


def test_a_brighter_smaller_copy_has_nearly_the_same_hash() -> None:
    image = texture(0)
    copy = cv2.convertScaleAbs(cv2.resize(image, (96, 72)), alpha=0.8, beta=20)
    assert (difference_hash(grey(image)) ^ difference_hash(grey(copy))).sum() <= 18
    assert (difference_hash(grey(image)) ^ difference_hash(grey(texture(1)))).sum() > 60


def test_near_duplicates_of_judged_photos_are_left_out(tmp_path: Path) -> None:
    masks = squares((2, 3))
    blurred = cv2.GaussianBlur(texture(1), (0, 0), 0.6)
    train = {"cups-1": texture(0), "cups-2": blurred, "cups-3": texture(2)}
    trained = read_index(folder(tmp_path / "train", train, masks))
    judged = read_index(folder(tmp_path / "heldout", {"cups-9": texture(1)}, masks))
    coins = (grey(texture(2)),)
    kept = without_duplicates(trained, judged, extra=coins)
    assert [photo.path.stem for photo in kept] == ["cups-1"]


def test_at_most_three_large_masks_are_judged_and_always_the_same(tmp_path: Path) -> None:
    masks = [*squares((0, 0), (0, 20), (0, 40), (30, 0)), *squares((30, 30), side=2)]
    (photo,) = read_index(folder(tmp_path / "heldout", {"cups-1": texture(0)}, masks))
    first, again = judged_masks(photo), judged_masks(photo)
    assert [mask.sum() for mask in first] == [100, 100, 100]
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
