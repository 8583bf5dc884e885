"""An encoded image: its oriented pixels, and those pixels in the model's frame. Pure."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from samserve.core.errors import InvalidInput
from samserve.core.geometry import Size, fit

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
Image.MAX_IMAGE_PIXELS = None  # our own limit is checked from the header, before decoding


@dataclass(frozen=True, slots=True)
class Limits:
    """What is accepted: the encoded size in bytes, the decoded one in pixels."""

    max_bytes: int = 32 * 2**20
    max_pixels: int = 100_000_000


@dataclass(frozen=True, slots=True)
class FramedImage:
    """pixels: uint8 [frame, frame, 3] RGB, zero outside `valid`; size: the oriented source's."""

    pixels: NDArray[np.uint8]
    valid: Size
    size: Size


def frame_image(data: bytes, frame: int, limits: Limits) -> FramedImage:
    """Decode, orient (EXIF), resize as SAM does, pad. Raises InvalidInput, field `data`."""
    picture = _open(data, limits)
    size = _oriented_size(picture)
    inner = fit(size, frame)
    try:
        rgb = ImageOps.exif_transpose(picture).convert("RGB")
    except Exception as problem:  # Pillow's decoders raise whatever they like on broken data
        raise InvalidInput("data", f"the {picture.format} image is damaged or cut short: {problem}") from problem
    scaled = rgb.resize((inner.width, inner.height), Image.Resampling.BILINEAR)
    pixels = np.zeros((frame, frame, 3), np.uint8)
    pixels[: inner.height, : inner.width] = np.asarray(scaled)
    return FramedImage(pixels, inner, size)


def _open(data: bytes, limits: Limits) -> Image.Image:
    if not data:
        raise InvalidInput("data", "the image is empty: send the bytes of an image file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # oddities in metadata are not ours to report
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as problem:
        raise InvalidInput("data", f"this is not an image in a known format ({', '.join(FORMATS)})") from problem
    except Exception as problem:  # Pillow's parsers raise whatever they like on broken headers
        raise InvalidInput("data", f"the image's header cannot be read: {problem}") from problem
    if picture.width * picture.height > limits.max_pixels:
        shape = f"{picture.width}x{picture.height}"
        raise InvalidInput("data", f"the image has {shape} pixels, more than the {limits.max_pixels:,} accepted")
    return picture


def _oriented_size(picture: Image.Image) -> Size:
    try:
        turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except Exception:  # damaged EXIF: Pillow's exif_transpose leaves such a picture as it is, too
        turned = False
    return Size(picture.height, picture.width) if turned else Size(picture.width, picture.height)
