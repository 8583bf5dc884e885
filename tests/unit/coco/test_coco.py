import contextlib
import io
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools.coco import COCO
from samserve.coco.dataset import Annotation, Category, Dataset, Image
from samserve.coco.read import read_dataset
from samserve.coco.write import write_dataset
from samserve.core.errors import InvalidInput
from samserve.core.geometry import Size
from samserve.core.runs import dense, runs_of

HEIGHT, WIDTH = 9, 13
masks = st.lists(arrays(np.bool_, (HEIGHT, WIDTH)), max_size=4)


def dataset(*pixels: np.ndarray, **fields: Any) -> Dataset:
    return Dataset(
        images=[Image(7, "a/coins.png", Size(WIDTH, HEIGHT), {"licence": 3})],
        annotations=[
            Annotation(index + 1, 7, 1, runs_of(mask), **fields)
            for index, mask in enumerate(pixels)
        ],
        categories=[Category(1, "object")],
    )


def by_pycocotools(written: bytes) -> COCO:
    coco = COCO()
    coco.dataset = orjson.loads(written)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


@given(masks, st.booleans())
def test_what_is_written_is_read_by_pycocotools_and_again(
    pixels: list[np.ndarray], crowd: bool
) -> None:
    extra = {"predicted_iou": 0.5, "point_coords": [[1.5, 2.0]]}
    written = write_dataset(dataset(*pixels, crowd=crowd, extra=extra))
    again = read_dataset(written)
    coco = by_pycocotools(written)
    assert again.images == dataset().images
    assert [each.extra for each in again.annotations] == [extra] * len(pixels)
    for mask, each in zip(pixels, again.annotations, strict=True):
        theirs = coco.anns[each.id]
        assert np.array_equal(coco.annToMask(theirs), mask)
        assert np.array_equal(dense(each.mask), mask)
        assert theirs["area"] == each.area == mask.sum()
        assert theirs["bbox"] == each.bbox and each.crowd == crowd
    assert [each.id for each in again.masks_of("a/coins.png")] == sorted(coco.anns)
    assert not again.masks_of("coins.png")


def test_polygons_are_written_and_read() -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[2:6, 3:9] = True
    ring = np.array([[3, 2], [3, 6], [9, 6], [9, 2]], np.float32)
    written = write_dataset(dataset(mask, polygons=(ring,)))
    assert orjson.loads(written)["annotations"][0]["segmentation"] == [[3, 2, 3, 6, 9, 6, 9, 2]]
    (again,) = read_dataset(written).annotations
    assert np.array_equal(dense(again.mask), mask)
    assert np.array_equal(again.polygons[0], ring)

    counts = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}
    assert changed(segmentation=counts).annotations[0].area == HEIGHT * WIDTH


def changed(part: str = "annotations", **fields: object) -> Dataset:
    content = orjson.loads(write_dataset(dataset(np.ones((HEIGHT, WIDTH), bool))))
    for name, value in fields.items():
        content[part][0][name] = value
        if value is ...:
            del content[part][0][name]
    return read_dataset(orjson.dumps(content))


SIZE = [HEIGHT, WIDTH]
NAMES = ["segmentation", "size", "counts", "bbox", "area", "id", "images", "annotations"]


@pytest.mark.parametrize(
    "fields, field, text",
    [
        ({"image_id": 8}, "image_id", "unknown image 8"),
        ({"image_id": ...}, "image_id", "is missing; expected a whole number"),
        ({"image_id": True}, "image_id", "True is invalid"),
        ({"category_id": 2}, "category_id", "unknown category 2"),
        ({"id": "1"}, "id", "'1' is invalid; expected a whole number, 0 or more"),
        ({"iscrowd": 2}, "iscrowd", "2 is invalid; expected 0 or 1"),
        ({"area": -1}, "area", "-1 is invalid; expected a number"),
        ({"bbox": [1, 2, 3]}, "bbox", "expected x, y, width and height"),
        ({"bbox": [1, 2, 3, -4]}, "bbox", "expected x, y, width and height"),
        ({"segmentation": ...}, "segmentation", "is missing; expected run lengths"),
        ({"segmentation": []}, "segmentation", "expected run lengths or a list of polygons"),
        ({"segmentation": [[1, 2, 3, 4]]}, "segmentation[0]", "expected x and y of 3 corners"),
        ({"segmentation": [[1] * 7]}, "segmentation[0]", "expected x and y of 3 corners"),
        ({"segmentation": [[1e39] * 6]}, "segmentation[0]", "expected finite numbers"),
        ({"segmentation": {"size": [1, 2], "counts": "1"}}, "segmentation.size", "the image has"),
        ({"segmentation": {"size": SIZE, "counts": "!"}}, "segmentation.counts", "truncated"),
        ({"segmentation": {"size": SIZE, "counts": "é"}}, "segmentation.counts", "ascii"),
        ({"segmentation": {"size": SIZE, "counts": [5]}}, "segmentation.counts", "cover 5"),
        ({"segmentation": {"size": SIZE, "counts": [2**64 - 1]}}, "segmentation.counts", ""),
        ({"segmentation": {"size": SIZE, "counts": [1.5]}}, "segmentation.counts", "COCO's text"),
    ],
)
def test_bad_annotations_are_refused_by_the_fields_name(
    fields: dict, field: str, text: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        changed(**fields)
    assert caught.value.field == f"annotations[0].{field}"
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "part, fields, field",
    [
        ("images", {"width": 0}, "images[0].width"),
        ("images", {"width": 2**40}, "images[0].width"),
        ("images", {"file_name": 5}, "images[0].file_name"),
        ("categories", {"name": ...}, "categories[0].name"),
    ],
)
def test_bad_images_and_categories_are_refused_likewise(
    part: str, fields: dict, field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        changed(part, **fields)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "data, field",
    [
        (b"{", "annotations"),
        (b"[]", "annotations"),
        (b'{"images": 5}', "images"),
        (b'{"images": [5]}', "images[0]"),
        (
            b'{"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            "categories[1].id",
        ),
    ],
)
def test_other_files_are_refused(data: bytes, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_dataset(data)
    assert caught.value.field == field


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**40) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner),
)


@given(st.dictionaries(st.sampled_from(NAMES), values))
def test_any_other_annotation_is_read_or_refused(fields: dict) -> None:
    with contextlib.suppress(InvalidInput):
        changed(**fields)


@given(values)
def test_any_other_content_is_read_or_refused(content: object) -> None:
    with contextlib.suppress(InvalidInput):
        read_dataset(orjson.dumps(content))
