import io

import numpy as np
import pytest
from PIL import Image
from samserve.core.errors import InvalidInput
from samserve.core.geometry import Size
from samserve.core.image import Limits, frame_image

LIMITS = Limits()
EXIF_ORIENTATION = 0x0112


def encoded(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def photo(width: int = 64, height: int = 48) -> Image.Image:
    ramp = np.arange(width * height * 3, dtype=np.uint32).reshape(height, width, 3) * 7 % 256
    return Image.fromarray(ramp.astype(np.uint8))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_every_format_is_framed(form: str) -> None:
    framed = frame_image(encoded(photo(), form), 1024, LIMITS)
    assert framed.size == Size(64, 48)
    assert framed.valid == Size(1024, 768)
    assert framed.pixels.shape == (1024, 1024, 3)
    assert not framed.pixels[768:].any()
    assert framed.pixels[:768].any()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    picture = Image.new(mode, (20, 10)) if mode == "I;16" else photo(20, 10).convert("RGB").convert(mode)
    assert frame_image(encoded(picture, "TIFF"), 256, LIMITS).pixels.shape == (256, 256, 3)


@pytest.mark.parametrize(
    ("orientation", "size"), [(1, Size(64, 48)), (3, Size(64, 48)), (6, Size(48, 64)), (8, Size(48, 64))]
)
def test_exif_orientation_is_applied_and_the_size_is_the_upright_one(orientation: int, size: Size) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    assert frame_image(encoded(photo(), "JPEG", exif=exif), 1024, LIMITS).size == size


def test_a_turned_photo_is_framed_like_the_upright_one() -> None:
    upright = photo()
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6  # to be turned by 90 degrees clockwise when shown
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    turned = frame_image(encoded(lying, "PNG", exif=exif), 256, LIMITS)
    assert np.array_equal(turned.pixels, frame_image(encoded(upright), 256, LIMITS).pixels)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (900, 37)])
def test_odd_shapes_are_framed(size: tuple[int, int]) -> None:
    framed = frame_image(encoded(photo(*size)), 1024, LIMITS)
    assert framed.size == Size(*size)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"certainly not an image", "known format"),
        (encoded(photo(), "PNG")[:120], "damaged|cut short|cannot be read"),
        (encoded(photo(), "JPEG")[:300], "damaged|cut short|cannot be read"),
    ],
)
def test_what_is_not_a_whole_image_is_refused_in_a_sentence(data: bytes, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        frame_image(data, 1024, LIMITS)
    assert caught.value.field == "data"


def test_too_many_pixels_are_refused_by_the_header_alone() -> None:
    bomb = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    with pytest.raises(InvalidInput, match="20000x20000"):
        frame_image(bomb, 1024, LIMITS)
