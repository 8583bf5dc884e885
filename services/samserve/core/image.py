"""Decodes an encoded image into the model's frame. Pure.

Transparency and colour profiles are ignored, as `convert("RGB")` does for SAM's own users: hidden
colours show, and numbers count as sRGB. Of several frames or pages the first is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from samserve.core.arrays import Array, Bytes
from samserve.core.crop import Crop
from samserve.core.errors import InvalidInput
from samserve.core.geometry import Frame, Size, fit
from samserve.core.image_file import FORMATS, BoundedFile, check_codec, check_scans
from samserve.core.tiff import bits_of, check_tiff, correct_values, why_unsupported

# A JPEG is never decoded to less than this many times its size in the frame.
DRAFT = 1.5

# EXIF of JPEG cannot be larger. A directory of 64 KiB can name the same 64 KiB in 5,000 tags.
MAX_EXIF_BYTES = 2**16

# EXIF orientation -> the transposition that makes the stored image upright.
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)

warnings.filterwarnings("ignore", module=r"PIL\.")  # oddities in metadata do no harm


# What is white in grey of 16 bits: the largest value of them all, or of the bits that are used.
ImageRange = Literal["full", "auto"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on input images.

    Attributes:
        max_bytes: Size of the encoded image, in bytes.
        max_pixels: Size of the decoded image, in pixels.
        max_aspect: Long side over short side. At 64 the short side is one cell of SAM's embedding.
    """

    max_bytes: int
    max_pixels: int
    max_aspect: float


@dataclass(frozen=True, slots=True)
class FramedImage:
    """An image in the model's frame.

    Attributes:
        pixels: uint8 [frame, frame, 3] RGB, zero outside `valid`.
        valid: Size of the image inside the frame.
        size: Size of the oriented source image.
    """

    pixels: Bytes
    valid: Size
    size: Size


def frame_image(
    data: bytes,
    frame: Frame,
    limits: Limits,
    image_range: ImageRange = "full",
    crop: Crop | None = None,
) -> FramedImage:
    """Decode an image, resize it as SAM does, orient it by EXIF, and pad it.

    The result equals SAM's own resize, with two exceptions. A JPEG of three times the frame or more
    is decoded at 1/2, 1/4 or 1/8, within one level of 255 in the mean (docs/decisions/0008). After
    a quarter turn a pixel may differ by one level. SAM 2 itself does not round to 8 bits.

    Args:
        data: The encoded image.
        frame: The model's.
        limits: On the whole image.
        image_range: What is white in grey images of 16 bits.
        crop: Part of the oriented image to take instead; its pixels are decoded at full scale.

    Raises:
        InvalidInput: The image is damaged, unsupported or over a limit; field `data`. The crop is
            not inside; field `crop`.
    """
    image = _open(data, limits)
    if crop is not None:
        with _decoding(image):
            return _frame_crop(image, frame, limits, image_range, crop)
    size = Size(*image.size)
    inner = fit(size, frame)

    with _decoding(image):
        # A draft's last row and column may cover less than a whole pixel: `box` leaves that out.
        draft = image.draft(None, (ceil(DRAFT * inner.width), ceil(DRAFT * inner.height)))
        image.load()
        box = draft[1] if draft else None
        resized = _eight_bit(image, image_range).resize(
            (inner.width, inner.height), Image.Resampling.BILINEAR, box
        )
        scaled = resized.convert("RGB")

    orientation = _orientation(image)
    if orientation in TRANSPOSITIONS:
        scaled = scaled.transpose(TRANSPOSITIONS[orientation])
    upright = Size(size.height, size.width) if orientation in SIDEWAYS else size
    return _pad(scaled, frame, upright)


def _frame_crop(
    image: ImageFile.ImageFile, frame: Frame, limits: Limits, image_range: ImageRange, crop: Crop
) -> FramedImage:
    """Frame a part of the image as if it were an image."""
    image.load()
    upright = _eight_bit(image, image_range)
    orientation = _orientation(image)
    if orientation in TRANSPOSITIONS:
        upright = upright.transpose(TRANSPOSITIONS[orientation])
    _check_crop(crop, Size(*upright.size), limits)

    inner = fit(crop.size, frame)
    part = upright.crop((crop.x0, crop.y0, crop.x1, crop.y1))
    scaled = part.resize((inner.width, inner.height), Image.Resampling.BILINEAR)
    return _pad(scaled.convert("RGB"), frame, crop.size)


def _check_crop(crop: Crop, size: Size, limits: Limits) -> None:
    sides = crop.size.width, crop.size.height
    if not crop.is_inside(size) or max(sides) > limits.max_aspect * min(sides):
        raise InvalidInput(
            "crop",
            f"crop {crop.x0}, {crop.y0}, {crop.x1}, {crop.y1} is not inside the image, which is "
            f"{size.width} x {size.height} pixels, or over the side ratio of "
            f"{limits.max_aspect:g}:1",
        )


def _pad(scaled: Image.Image, frame: Frame, size: Size) -> FramedImage:
    """Put the scaled image into the frame's corner."""
    pixels = np.zeros((frame.side, frame.side, 3), np.uint8)
    pixels[: scaled.height, : scaled.width] = np.asarray(scaled)
    return FramedImage(pixels, Size(*scaled.size), size)


@contextmanager
def _decoding(image: ImageFile.ImageFile) -> Iterator[None]:
    """Raise what decoding raises as InvalidInput."""
    try:
        yield
    except InvalidInput:
        raise
    except MemoryError as problem:
        raise InvalidInput(
            "data", f"the {image.format} needs too much memory to decode; send a smaller one"
        ) from problem
    except Exception as problem:  # Pillow's decoders raise anything on broken data
        raise InvalidInput(
            "data", f"the {image.format} is damaged or truncated; send the whole file"
        ) from problem


def _open(data: bytes, limits: Limits) -> ImageFile.ImageFile:
    """Read the header and check it; memory for the pixels is not allocated yet."""
    if not data:
        raise InvalidInput("data", "the image is empty; send the bytes of an image file")

    # Pillow refuses twice this, before its parsers allocate it.
    Image.MAX_IMAGE_PIXELS = (limits.max_pixels + 1) // 2
    try:
        image = Image.open(BoundedFile(data), formats=FORMATS)
        _check(image, data, limits)
    except InvalidInput:
        raise
    except Image.DecompressionBombError as problem:
        raise InvalidInput(
            "data", f"the image has more than {limits.max_pixels:,} pixels; send a smaller one"
        ) from problem
    except Exception as problem:  # Pillow's parsers raise anything on broken headers
        raise InvalidInput(
            "data",
            why_unsupported(data)
            or f"unsupported or damaged image; supported formats: {', '.join(FORMATS)}",
        ) from problem
    return image


def _check(image: ImageFile.ImageFile, data: bytes, limits: Limits) -> None:
    """Check what the header promises. Raises InvalidInput."""
    if max(image.size) > limits.max_aspect * min(image.size):
        shape = f"{image.width}x{image.height}"
        raise InvalidInput(
            "data",
            f"the image is {shape}, over the side ratio of {limits.max_aspect:g}:1; crop it",
        )

    check_codec(image)
    check_scans(image, data)
    if isinstance(image, TiffImageFile):
        check_tiff(image, data, limits.max_pixels)


def _eight_bit(image: Image.Image, image_range: ImageRange) -> Image.Image:
    """Return the image in 8-bit grey or RGB.

    16 bits are shifted to their high 8, or to the high 8 of those that are used; Pillow would cut
    values off at 255. Of colours Pillow reads only the high 8.
    """
    if image.mode.startswith("I;16"):
        values = _values(image)
        bits = bits_of(image) if isinstance(image, TiffImageFile) else 16
        if image_range == "auto":
            bits = max(8, int(values.max()).bit_length())
        return Image.fromarray((values >> (bits - 8)).astype(np.uint8))
    if image.mode == "L" and isinstance(image, TiffImageFile):
        return Image.fromarray(_values(image))
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _values(image: Image.Image) -> Array:
    """Return the pixels [height, width] of a grey image; zero is black."""
    values = np.asarray(image)
    return correct_values(image, values) if isinstance(image, TiffImageFile) else values


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, or 1 (upright) if EXIF is damaged or too large.

    Call it after loading, when Pillow has already turned a TIFF.
    """
    if len(image.info.get("exif", b"")) > MAX_EXIF_BYTES:
        return 1

    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow's parsers raise anything
        return 1
