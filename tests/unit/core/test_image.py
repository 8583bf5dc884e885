import io
import itertools
import re
import resource
import struct
from dataclasses import replace

import numpy as np
import pytest
import skimage.data
import tifffile
from hostile_images import (
    bmp_run_lengths,
    gif_background,
    gif_comments,
    hostile_images,
    jpeg_scans,
    jpeg_segments,
    png,
    png_header,
    tiff,
    tiff_shared_tags,
    tiff_tiles,
    webp_canvas,
    webp_one_colour,
)
from PIL import Image, ImageFile, ImageOps
from samserve.core.crop import Crop
from samserve.core.errors import InvalidInput
from samserve.core.geometry import Frame, Size, fit
from samserve.core.image import Limits, frame_image

LIMITS = Limits(max_bytes=32 * 2**20, max_pixels=40_000_000, max_aspect=64)
EXIF_ORIENTATION = 0x0112


@pytest.fixture(autouse=True)
def reset_pillows_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's limit on pixels belongs to the process."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def photo(width: int = 64, height: int = 48) -> Image.Image:
    ramp = np.arange(width * height * 3, dtype=np.uint32).reshape(height, width, 3) * 7 % 256
    return Image.fromarray(ramp.astype(np.uint8))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_every_format_is_decoded(form: str) -> None:
    framed = frame_image(encoded(photo(), form), Frame(1024), LIMITS)
    assert framed.size == Size(64, 48)
    assert framed.valid == Size(1024, 768)
    assert framed.pixels.shape == (1024, 1024, 3)
    assert not framed.pixels[768:].any()
    assert framed.pixels[:768].any()


def framed_by_sam(image: Image.Image, frame: int) -> np.ndarray:
    """SAM's own way: upright, RGB, ResizeLongestSide by Pillow's bilinear, padding at the end."""
    upright = ImageOps.exif_transpose(image).convert("RGB")
    inner = fit(Size(*upright.size), Frame(frame))
    pixels = np.zeros((frame, frame, 3), np.uint8)
    scaled = upright.resize((inner.width, inner.height), Image.Resampling.BILINEAR)
    pixels[: inner.height, : inner.width] = np.asarray(scaled)
    return pixels


def difference_of(pixels: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(pixels.astype(int) - other.astype(int))


@pytest.mark.parametrize("size", [(64, 48), (2001, 1337), (300, 1999)])
@pytest.mark.parametrize(
    ("form", "mode"),
    [
        ("JPEG", "RGB"),
        ("JPEG", "L"),
        ("JPEG", "CMYK"),
        ("PNG", "1"),
        ("PNG", "L"),
        ("PNG", "LA"),
        ("PNG", "P"),
        ("PNG", "RGBA"),
        ("WEBP", "RGBA"),
        ("TIFF", "CMYK"),
        ("TIFF", "LAB"),
        ("GIF", "P"),
        ("BMP", "RGB"),
    ],
)
def test_every_mode_is_resized_as_sam_does(form: str, mode: str, size: tuple[int, int]) -> None:
    image = (
        Image.merge("LAB", photo(*size).split())
        if mode == "LAB"
        else photo(*size).convert("RGB").convert(mode)
    )
    data = encoded(image, form)
    assert np.array_equal(
        frame_image(data, Frame(1024), LIMITS).pixels,
        framed_by_sam(Image.open(io.BytesIO(data)), 1024),
    )


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_high_byte(form: str) -> None:
    grey = np.array([[0, 255, 256, 4095, 32768, 65535]], np.uint16)
    framed = frame_image(encoded(Image.fromarray(grey), form), Frame(6), LIMITS)
    assert framed.pixels[0, :, 0].tolist() == [0, 0, 1, 15, 128, 255]


def test_twelve_bit_grey_is_scaled_by_its_own_range() -> None:
    sides = ((256, 3, 2), (257, 3, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1))
    data = tiff(
        *sides, (273, 4, 122), (277, 3, 1), (278, 3, 1), (279, 4, 3), body=b"\xff\xf8\x00"
    )  # 4095 and 2048
    assert frame_image(data, Frame(2), LIMITS).pixels[0, :, 0].tolist() == [255, 128]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 16, 4080, 4095], [0, 1, 255, 255]),
        ([0, 256, 4095, 65535], [0, 1, 15, 255]),
        ([0, 1, 128, 255], [0, 1, 128, 255]),
        ([0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_with_the_range_auto_grey_is_scaled_by_the_bits_that_it_uses(
    form: str, values: list[int], expected: list[int]
) -> None:
    data = encoded(Image.fromarray(np.array([values], np.uint16)), form)
    framed = frame_image(data, Frame(4), LIMITS, "auto")
    assert framed.pixels[0, :, 0].tolist() == expected


def test_transparency_is_ignored() -> None:
    hidden = Image.new("RGBA", (8, 8), (200, 100, 50, 0))
    assert frame_image(encoded(hidden), Frame(8), LIMITS).pixels[0, 0].tolist() == [200, 100, 50]


@pytest.mark.parametrize("form", ["GIF", "WEBP", "TIFF", "PNG", "MPO"])
def test_the_first_of_several_frames_is_used(form: str) -> None:
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue", "lime")]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    red, green, blue = frame_image(data, Frame(32), LIMITS).pixels[10, 10]
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "MPO"])
def test_exif_orientation_is_applied_to_pixels_and_size(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    data = encoded(photo(), form, exif=exif)
    framed = frame_image(data, Frame(48), LIMITS)
    assert framed.size == (Size(48, 64) if orientation >= 5 else Size(64, 48))
    assert framed.valid == fit(framed.size, Frame(48))
    difference = difference_of(framed.pixels, framed_by_sam(Image.open(io.BytesIO(data)), 48))
    assert difference.max() <= (1 if orientation >= 5 else 0)


def test_damaged_exif_is_ignored() -> None:
    exif = b"Exif\0\0II*\0" + b"\xff" * 40
    assert frame_image(encoded(photo(), "JPEG", exif=exif), Frame(64), LIMITS).size == Size(64, 48)


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("size", [(768, 576), (1031, 777), (4097, 3001)])
def test_a_large_jpeg_decoded_small_is_nearly_what_sam_sees(
    size: tuple[int, int], orientation: int
) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    image = Image.fromarray(skimage.data.astronaut()).resize(size, Image.Resampling.LANCZOS)
    data = encoded(image, "JPEG", exif=exif)
    framed = frame_image(data, Frame(256), LIMITS)
    difference = difference_of(framed.pixels, framed_by_sam(Image.open(io.BytesIO(data)), 256))
    assert framed.size == (Size(*reversed(size)) if orientation == 6 else Size(*size))
    assert 0 < difference.mean() < 1
    assert difference.max() <= 24


@pytest.mark.parametrize("size", [(1, 1), (1, 64), (3000, 47), (900, 37)])
def test_odd_shapes_are_framed(size: tuple[int, int]) -> None:
    framed = frame_image(encoded(photo(*size)), Frame(1024), LIMITS)
    assert framed.size == Size(*size)


HUGE = png(png_header(20_000, 20_000), (b"IDAT", b""))
SLIVER = encoded(Image.new("L", (1, 65)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty; send"),
        (b"certainly not an image", "unsupported or damaged image; supported formats: JPEG, PNG"),
        (encoded(photo(), "PNG")[:120], "PNG is damaged or truncated; send"),
        (encoded(photo(), "JPEG")[:-300], "JPEG is damaged or truncated; send"),
        (encoded(photo(), "JPEG", progressive=True)[:-300], "JPEG is damaged or truncated; send"),
        (encoded(photo(), "JPEG")[:300], "unsupported or damaged image"),
        (HUGE, "more than 40,000,000 pixels; send"),
        (webp_canvas(20_000, 20_000), "more than 40,000,000 pixels; send"),
        (gif_background(60_000, 60_000), "more than 40,000,000 pixels; send"),
        (tiff_tiles(60_000, 60_000), "tiles have more than 40,000,000 pixels; use smaller tiles"),
        (webp_one_colour(10_000, 10_000), "more than 40,000,000 pixels; send"),
        (png(png_header(10_000, 10_000, 1, 0), (b"IDAT", b"")), "more than 40,000,000 pixels"),
        (SLIVER, "1x65, over the side ratio of 64:1; crop"),
        (jpeg_scans(32), "more than 32 scans; save"),
        (encoded(Image.new("F", (8, 8)), "TIFF"), "floating-point numbers"),
        (encoded(Image.new("I", (8, 8)), "TIFF"), "32-bit signed integers; save"),
    ],
)
def test_an_invalid_image_is_refused_with_what_to_do(data: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        frame_image(data, Frame(1024), LIMITS)
    assert caught.value.field == "data"


@pytest.mark.parametrize(
    "data",
    [HUGE, webp_canvas(16_000, 16_000), gif_background(60_000, 60_000), tiff_tiles(60_000, 60_000)],
)
def test_decompression_bombs_are_refused_before_memory_is_allocated(data: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InvalidInput):
        frame_image(data, Frame(1024), LIMITS)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024


@pytest.mark.parametrize(("most", "accepted"), [(98, False), (100, True)])
def test_the_limit_on_pixels_is_inclusive(most: int, accepted: bool) -> None:
    data = encoded(Image.new("L", (10, 10)))
    if accepted:
        frame_image(data, Frame(16), replace(LIMITS, max_pixels=most))
    else:
        with pytest.raises(InvalidInput, match="more than 98 pixels"):
            frame_image(data, Frame(16), replace(LIMITS, max_pixels=most))


FLOOD = 32 * 2**20 - 2**16


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bmp_run_lengths(1), "BMP with run-length coding is not supported; save it as a PNG"),
        (bmp_run_lengths(2), "BMP with run-length coding is not supported"),
        (jpeg_scans(94), "more than 32 scans"),
        (jpeg_scans(94, progressive=False), "more than 32 scans"),
        (jpeg_scans(94, before=b"\xff\xfe\0\4\xff\xd9"), "more than 32 scans"),
        (jpeg_segments(b"\xff\xe1\0\2", FLOOD), "more than 100,000 parts"),
        (jpeg_segments(b"\xff\xfe\0\2", FLOOD), "more than 100,000 parts"),
        (jpeg_segments(b"\xff", FLOOD), "more than 100,000 parts"),
        (png(png_header(9, 9), *[(b"teSt", b"")] * 200_000), "more than 100,000 parts"),
        (gif_comments(FLOOD), "more than 100,000 parts"),
        (tiff_shared_tags(2**20), "tags name more bytes than it has; save it again"),
        (tiff_shared_tags(2**20, 2000), "the TIFF has 2,005 tags; the limit is 1,000"),
    ],
    ids=[
        "BMP RLE8",
        "BMP RLE4",
        "JPEG progressive scans",
        "JPEG baseline scans",
        "JPEG scans after a hidden end",
        "JPEG APP segments",
        "JPEG comments",
        "JPEG fill bytes",
        "PNG chunks",
        "GIF comments",
        "TIFF tags of the same bytes",
        "TIFF tags",
    ],
)
def test_files_that_are_costly_to_decode_are_refused_before_any_pixel_is_decoded(
    data: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: loaded.append(image))
    with pytest.raises(InvalidInput, match=message):
        frame_image(data, Frame(1024), LIMITS)
    assert not loaded


@pytest.mark.parametrize("scans", [1, 10])
def test_a_jpeg_with_ordinary_scans_is_decoded(scans: int) -> None:
    assert frame_image(jpeg_scans(scans), Frame(64), LIMITS).size == Size(45, 33)


def test_two_ended_jpegs_in_one_file_count_as_one() -> None:
    data = jpeg_scans(10)
    assert frame_image(data * 9, Frame(64), LIMITS).size == Size(45, 33)


COIN = skimage.data.coins()[:96, :128]
COLOURS = np.stack([COIN, COIN[::-1], COIN[:, ::-1]], -1)


def wide(values: np.ndarray) -> np.ndarray:
    """8 bits as the high and the low byte of 16."""
    return values.astype(np.uint16) * 257


def written(values: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, values, **options)
    return out.getvalue()


PLANES = {"photometric": "rgb", "planarconfig": "separate"}
BANDS = {"photometric": "minisblack", "planarconfig": "contig"}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packing", [{}, {"compression": "zlib"}, {"tile": (32, 48)}])
@pytest.mark.parametrize(
    ("values", "expected", "options"),
    [
        (np.moveaxis(COLOURS, -1, 0), COLOURS, PLANES),
        (np.moveaxis(wide(COLOURS), -1, 0), COLOURS, PLANES),
        (wide(COLOURS), COLOURS, {"photometric": "rgb"}),
        (wide(COIN), COIN, {}),
        (255 - COIN, COIN, {"photometric": "miniswhite"}),
        (65535 - wide(COIN), COIN, {"photometric": "miniswhite"}),
        ((COIN.astype(int) - 128).astype(np.int8), COIN, {}),
        (np.dstack([COIN, COIN]), COIN, {**BANDS, "extrasamples": ["unassalpha"]}),
        (np.dstack([COLOURS, COIN, COIN]), COLOURS, {"photometric": "rgb"}),
    ],
    ids=[
        "8-bit planes",
        "16-bit planes",
        "16-bit colours",
        "16-bit grey",
        "8-bit white is zero",
        "16-bit white is zero",
        "int8",
        "8-bit grey with alpha",
        "8-bit colours and two bands",
    ],
)
def test_every_supported_tiff_gives_the_pixels_that_were_written(
    values: np.ndarray,
    expected: np.ndarray,
    options: dict[str, object],
    packing: dict[str, object],
    order: str,
) -> None:
    data = written(np.ascontiguousarray(values), byteorder=order, **options, **packing)
    pixels = frame_image(data, Frame(128), LIMITS).pixels[:96]
    assert np.array_equal(pixels, expected if expected.ndim == 3 else np.dstack([expected] * 3))


@pytest.mark.parametrize(
    ("values", "options", "reason"),
    [
        (COIN.astype(np.int16), {}, "grey, one band of 16-bit signed integers; save it as grey"),
        (np.dstack([COLOURS, COIN]), BANDS, "grey, 4 bands of 8-bit unsigned integers"),
        (np.dstack([wide(COLOURS), COIN, COIN]), BANDS, "grey, 5 bands of 16-bit unsigned"),
        (COIN.astype(np.float16), {}, "grey, one band of 16-bit floating-point numbers"),
        (COIN.astype(np.float32), {}, "grey, one band of 32-bit floating-point numbers"),
        (COLOURS.astype(np.float32), {"photometric": "rgb"}, "RGB, 3 bands of 32-bit floating"),
        (COLOURS.astype(np.int8), {"photometric": "rgb"}, "RGB, 3 bands of 8-bit signed integers"),
        (
            np.dstack([wide(COIN), wide(COIN)]),
            {**BANDS, "extrasamples": ["unassalpha"]},
            "grey with alpha, 2 bands of 16-bit unsigned integers",
        ),
    ],
)
def test_other_tiffs_are_refused_with_what_their_pixels_are(
    values: np.ndarray, options: dict[str, object], reason: str
) -> None:
    with pytest.raises(InvalidInput, match=f"pixels are not supported: {reason}"):
        frame_image(written(values, **options), Frame(128), LIMITS)


def test_a_tiff_in_an_old_compression_is_refused() -> None:
    data = bytearray(encoded(photo(), "TIFF", compression="jpeg"))
    at = data.index(struct.pack("<HHLH", 259, 3, 1, 7))
    data[at + 8] = 6
    with pytest.raises(InvalidInput, match="compression 6 is not supported; use deflate"):
        frame_image(bytes(data), Frame(64), LIMITS)


def test_exif_that_no_camera_writes_is_ignored() -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    exif[0x010E] = "x" * 2**16
    assert frame_image(encoded(photo(), "PNG", exif=exif), Frame(64), LIMITS).size == Size(64, 48)


def test_hostile_images_are_decoded_or_refused_as_invalid() -> None:
    framed = 0
    for data in itertools.islice(hostile_images(seed=0), 600):
        try:
            framed += frame_image(
                data, Frame(64), replace(LIMITS, max_pixels=1_000_000)
            ).pixels.shape == (
                64,
                64,
                3,
            )
        except InvalidInput as refusal:
            assert refusal.field == "data"
            assert not re.search(r"<|0x|object|Error|\n", str(refusal))
    assert 60 < framed < 540  # some of either, or the images are not what they are for


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_crop_is_framed_as_an_image_of_its_own(orientation: int) -> None:
    image = Image.fromarray(skimage.data.chelsea())
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(out, "PNG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(out))
    part = io.BytesIO()
    upright.crop((30, 50, 230, 180)).save(part, "PNG")

    cropped = frame_image(out.getvalue(), Frame(256), LIMITS, crop=Crop(30, 50, 230, 180))
    alone = frame_image(part.getvalue(), Frame(256), LIMITS)
    assert np.array_equal(cropped.pixels, alone.pixels)
    assert (cropped.size, cropped.valid) == (alone.size, alone.valid)


@pytest.mark.parametrize("crop", [Crop(0, 0, 452, 300), Crop(5, 5, 5, 9), Crop(0, 0, 400, 2)])
def test_a_crop_that_is_not_inside_is_refused(crop: Crop) -> None:
    out = io.BytesIO()
    Image.fromarray(skimage.data.chelsea()).save(out, "PNG")
    with pytest.raises(InvalidInput, match="is not inside the image") as caught:
        frame_image(out.getvalue(), Frame(256), LIMITS, crop=crop)
    assert caught.value.field == "crop"
