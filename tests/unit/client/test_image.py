"""The kinds of images that callers have at hand."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from samserve.client.image import read_bytes, read_id
from samserve.core.errors import InvalidInput
from samserve.core.image_id import image_id

ENCODED = b"an encoded image"
PIXELS = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)


def opened(data: bytes) -> io.BytesIO:
    """A file that has been written and not wound back."""
    file = io.BytesIO()
    file.write(data)
    return file


@pytest.mark.parametrize(
    "image", [ENCODED, bytearray(ENCODED), memoryview(ENCODED), opened(ENCODED)], ids=type
)
def test_encoded_bytes_are_taken_from_whatever_holds_them(image: Any) -> None:
    for _ in range(2):  # a file is read from its start each time
        assert read_bytes(image) == ENCODED
        assert read_id(image) == image_id(ENCODED)


def test_a_file_is_named_by_a_string_a_path_or_a_file_object(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(ENCODED)
    with path.open("rb") as file:
        assert read_bytes(str(path)) == read_bytes(path) == read_bytes(file) == ENCODED
        assert read_id(path) == read_id(file) == image_id(ENCODED)


@pytest.mark.parametrize(
    "pixels",
    [PIXELS, PIXELS[::2, ::-1], PIXELS.transpose(1, 0, 2), PIXELS[..., ::-1], PIXELS[:1, :1]],
)
def test_pixels_arrive_without_loss(pixels: np.ndarray) -> None:
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(read_bytes(pixels)))), pixels)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1", "CMYK", "YCbCr"])
def test_a_pillow_image_arrives_as_its_pixels(mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    sent = np.asarray(Image.open(io.BytesIO(read_bytes(image))))
    assert np.array_equal(sent, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (None, "an image of type NoneType is not supported; give a path, bytes, a file"),
        (5, "an image of type int is not supported"),
        ([[1, 2]], "an image of type list is not supported"),
        (PIXELS.astype(np.float32), r"an array float32 \[7, 5, 3\] is not supported as an image"),
        (PIXELS[..., 0], r"an array uint8 \[7, 5\] is not supported"),
        (PIXELS.transpose(2, 0, 1), r"an array uint8 \[3, 7, 5\]; give uint8"),
        (PIXELS[:0], r"an array uint8 \[0, 5, 3\]"),
        (io.StringIO("text"), "the file gives str; open it for bytes, with mode 'rb'"),
        (Image.new("I;16", (3, 3)), "a Pillow image of mode 'I;16' is not supported; convert"),
        (Image.new("F", (3, 3)), "a Pillow image of mode 'F' is not supported"),
    ],
)
def test_another_type_is_refused_by_a_sentence(image: Any, says: str) -> None:
    says = says.replace("; give uint8", " is not supported as an image; give uint8")
    for read in (read_bytes, read_id):
        with pytest.raises(InvalidInput, match=says) as caught:
            read(image)
        assert caught.value.field == "image"
