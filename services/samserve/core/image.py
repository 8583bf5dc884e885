"""An encoded image: its oriented pixels, and those pixels in the model's frame. Pure.

Transparency and colour profiles are ignored, as SAM's own users do with `convert("RGB")`: hidden colours show, numbers
are taken for sRGB. Of several frames or pages the first counts.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from math import ceil

import numpy as np
from PIL import ExifTags, Image, ImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE as BITS_PER_SAMPLE
from PIL.TiffImagePlugin import TILELENGTH as TILE_LENGTH
from PIL.TiffImagePlugin import TILEWIDTH as TILE_WIDTH
from PIL.TiffImagePlugin import TiffImageFile

from samserve.core.arrays import Bytes
from samserve.core.errors import InvalidInput
from samserve.core.geometry import Frame, Size, fit

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
DRAFT = 1.5  # times the size in the frame: a JPEG is never decoded smaller
MAX_SCANS = 100  # of a progressive JPEG, which has about 10; an empty one of 100 bytes costs a pass over all pixels
WITHOUT_RANGE = {"I": "32-bit integers", "F": "floating-point numbers", "La": "premultiplied grey"}
TURNS = {  # by EXIF orientation: what turns the stored picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)

warnings.filterwarnings("ignore", module=r"PIL\.")  # oddities in metadata are not ours to report


@dataclass(frozen=True, slots=True)
class Limits:
    """What is accepted: the encoded size in bytes, the decoded one in pixels, the long side over the short one.

    At 64:1 the short side is one cell of SAM's embedding.
    """

    max_bytes: int
    max_pixels: int
    max_aspect: float


@dataclass(frozen=True, slots=True)
class FramedImage:
    """pixels: uint8 [frame, frame, 3] RGB, zero outside `valid`; size: the oriented source's."""

    pixels: Bytes
    valid: Size
    size: Size


def frame_image(data: bytes, frame: Frame, limits: Limits) -> FramedImage:
    """Decode, resize as SAM does, orient (EXIF), pad. Raises InvalidInput, field `data`.

    Equal to SAM's own resize but for two: a JPEG of three times the frame or more is decoded at 1/2, 1/4 or 1/8, within
    one level of 255 in the mean (docs/decisions/0008), and after a quarter turn a pixel may differ by one level. SAM 2
    itself does not round to 8 bits.
    """
    picture = _open(data, limits)
    size = Size(*picture.size)
    inner = fit(size, frame)
    try:
        draft = picture.draft(None, (ceil(DRAFT * inner.width), ceil(DRAFT * inner.height)))
        picture.load()
        box = (
            draft[1] if draft else None
        )  # a draft's last row and column may cover less than a whole pixel
        scaled = (
            _eight_bit(picture)
            .resize((inner.width, inner.height), Image.Resampling.BILINEAR, box)
            .convert("RGB")
        )
    except Exception as problem:  # Pillow's decoders raise whatever they like on broken data
        raise InvalidInput(
            "data", f"the {picture.format} is damaged or cut short: send the whole file"
        ) from problem
    orientation = _orientation(picture)
    if orientation in TURNS:
        scaled = scaled.transpose(TURNS[orientation])
    pixels = np.zeros((frame.side, frame.side, 3), np.uint8)
    pixels[: scaled.height, : scaled.width] = np.asarray(scaled)
    upright = Size(size.height, size.width) if orientation in SIDEWAYS else size
    return FramedImage(pixels, Size(*scaled.size), upright)


def _open(data: bytes, limits: Limits) -> ImageFile.ImageFile:
    """Read the header, and hold it against the limits: nothing of the picture's size is allocated yet."""
    if not data:
        raise InvalidInput("data", "the image is empty: send the bytes of an image file")
    Image.MAX_IMAGE_PIXELS = (
        limits.max_pixels + 1
    ) // 2  # Pillow refuses twice this, before its parsers allocate it
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        _check(picture, data, limits)
    except InvalidInput:
        raise
    except Image.DecompressionBombError as problem:
        raise InvalidInput(
            "data", f"the image has more than {limits.max_pixels:,} pixels: send it smaller"
        ) from problem
    except Exception as problem:  # Pillow's parsers raise whatever they like on broken headers
        known = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise InvalidInput(
            "data", f"this is no image in a known format, or damaged: send a {known}"
        ) from problem
    return picture


def _check(picture: ImageFile.ImageFile, data: bytes, limits: Limits) -> None:
    """What a header may promise. Raises InvalidInput."""
    shape = f"{picture.width}x{picture.height}"
    if max(picture.size) > limits.max_aspect * min(picture.size):
        raise InvalidInput(
            "data", f"the image is {shape}, longer than {limits.max_aspect:g}:1: send a part of it"
        )
    if picture.mode in WITHOUT_RANGE:
        kind = WITHOUT_RANGE[picture.mode]
        raise InvalidInput(
            "data",
            f"the image's pixels are {kind}, whose black and white are unknown: send 8 or 16 bits",
        )
    if isinstance(picture, TiffImageFile):
        tile = picture.tag_v2.get(TILE_WIDTH, 0) * picture.tag_v2.get(TILE_LENGTH, 0)
        if tile > limits.max_pixels:
            raise InvalidInput(
                "data",
                f"the TIFF's tiles have more than {limits.max_pixels:,} pixels: send smaller ones",
            )
    if picture.info.get("progressive") and _scans(picture, data) > MAX_SCANS:
        raise InvalidInput(
            "data", f"the JPEG has more than {MAX_SCANS} scans: save it as a baseline JPEG"
        )


def _scans(picture: ImageFile.ImageFile, data: bytes) -> int:
    """How many scans follow a JPEG's header."""
    first = picture.fp.tell() if picture.fp else 0
    return 1 + data.count(b"\xff\xda", first, data.find(b"\xff\xd9", first))


def _eight_bit(picture: Image.Image) -> Image.Image:
    """The picture in 8-bit grey or RGB. 16 bits lose their low ones; Pillow would cut them off at 255."""
    if picture.mode in ("L", "RGB"):
        return picture
    if picture.mode.startswith("I;16"):
        bits = picture.tag_v2[BITS_PER_SAMPLE][0] if isinstance(picture, TiffImageFile) else 16
        return Image.fromarray((np.asarray(picture) >> (bits - 8)).astype(np.uint8))
    return picture.convert("RGB")


def _orientation(picture: Image.Image) -> int:
    """EXIF's, 1 (upright) if it is damaged. To be asked after loading: Pillow has turned a TIFF itself by then."""
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow's parsers raise whatever they like
        return 1
