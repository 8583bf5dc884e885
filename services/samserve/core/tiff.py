"""TIFFs that Pillow alone would read wrongly, or refuse without the reason. Pure."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import TiffImagePlugin
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COMPRESSION,
    EXTRASAMPLES,
    PHOTOMETRIC_INTERPRETATION,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    TILELENGTH,
    TILEWIDTH,
    ImageFileDirectory_v2,
    TiffImageFile,
)

from samserve.core.arrays import Array
from samserve.core.errors import InvalidInput

# Pillow's own reader takes the bytes of separate 16-bit planes for pixels of 8 bits. libtiff reads
# them rightly, so it reads uncompressed files too.
TiffImagePlugin.READ_LIBTIFF = True

# Pillow knows white-is-zero grey of 16 bits only in little-endian files; ImageJ writes big-endian.
_BIG_ENDIAN, _UNSIGNED, _NORMAL_BIT_ORDER = b"MM", (1,), 1
TiffImagePlugin.OPEN_INFO[_BIG_ENDIAN, 0, _UNSIGNED, _NORMAL_BIT_ORDER, (16,), ()] = (
    "I;16B",
    "I;16B",
)

# Compressions that are decoded, by the number in the file. Not among them: the JPEG of TIFF 6.0,
# ThunderScan and SGI's logarithms.
COMPRESSIONS = {
    1: "none",
    2: "CCITT RLE",
    3: "CCITT group 3",
    4: "CCITT group 4",
    5: "LZW",
    7: "JPEG",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
}

# Tags of a file's first page. libtiff reads what each of them names, however often.
MAX_TAGS = 1_000
TYPE_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}

WHITE_IS_ZERO = 0
SIGNED = 2

PHOTOMETRICS = {
    WHITE_IS_ZERO: "white-is-zero grey",
    1: "grey",
    2: "RGB",
    3: "palette",
    5: "CMYK",
    6: "YCbCr",
    8: "Lab",
}
SAMPLES = {1: "unsigned integers", SIGNED: "signed integers", 3: "floating-point numbers"}
ADVICE = "save it as grey or RGB of 8 or 16 bits, unsigned, without further bands"


def check_tiff(image: TiffImageFile, data: bytes, max_pixels: int) -> None:
    """Check a TIFF's header before its pixels are decoded.

    Raises:
        InvalidInput: Its tags or tiles are too large, or its pixels or compression are not
            supported.
    """
    tags = image.tag_v2
    _check_directory(data)

    compression = tags.get(COMPRESSION, 1)
    if compression not in COMPRESSIONS:
        raise InvalidInput(
            "data",
            f"the TIFF's compression {compression} is not supported; use deflate, LZW or none",
        )

    # libtiff allocates a tile whole.
    if tags.get(TILEWIDTH, 0) * tags.get(TILELENGTH, 0) > max_pixels:
        raise InvalidInput(
            "data", f"the TIFF's tiles have more than {max_pixels:,} pixels; use smaller tiles"
        )

    if image.mode in ("I", "F", "La"):
        raise InvalidInput("data", unsupported(tags))


def _check_directory(data: bytes) -> None:
    """Check the number and the size of a TIFF's tags: libtiff reads what each of them names."""
    order, big = "<" if data[:2] == b"II" else ">", b"+" in data[2:4]
    (start,) = (
        struct.unpack_from(f"{order}Q", data, 8)
        if big
        else struct.unpack_from(f"{order}L", data, 4)
    )
    entry = struct.Struct(f"{order}HHQ8x" if big else f"{order}HHL4x")
    (count,) = struct.unpack_from(f"{order}Q" if big else f"{order}H", data, start)
    if count > MAX_TAGS:
        raise InvalidInput("data", f"the TIFF has {count:,} tags; the limit is {MAX_TAGS:,}")

    first = start + (8 if big else 2)
    entries = entry.iter_unpack(data[first : first + count * entry.size])
    if sum(TYPE_BYTES.get(kind, 1) * values for _, kind, values in entries) > len(data):
        raise InvalidInput("data", "the TIFF's tags name more bytes than it has; save it again")


def unsupported(tags: ImageFileDirectory_v2) -> str:
    """Return the sentence that refuses a valid TIFF for its kind of pixels."""
    bits = tags.get(BITSPERSAMPLE, (1,))
    count = tags.get(SAMPLESPERPIXEL, len(bits))
    sample = SAMPLES.get(tags.get(SAMPLEFORMAT, (1,))[0], "values of an unknown type")
    colour = PHOTOMETRICS.get(tags.get(PHOTOMETRIC_INTERPRETATION, 1), "an unknown colour space")

    bands = f"{count} bands" if count > 1 else "one band"
    alpha = " with alpha" if any(kind in (1, 2) for kind in tags.get(EXTRASAMPLES, ())) else ""
    pixels = f"{colour}{alpha}, {bands} of {bits[0]}-bit {sample}"
    return f"the TIFF's pixels are not supported: {pixels}; {ADVICE}"


def why_unsupported(data: bytes) -> str:
    """Return why Pillow does not read these bytes, if they are a valid TIFF; else nothing."""
    try:
        tags = ImageFileDirectory_v2(
            data[:16] if data[2:3] == b"+" or data[3:4] == b"+" else data[:8]
        )
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        return unsupported(tags) if tags else ""
    except Exception:  # Pillow's parsers raise anything on data that is no TIFF
        return ""


def correct_values(image: TiffImageFile, values: Array) -> Array:
    """Return pixels whose zero is black: of white-is-zero and signed files, which Pillow keeps.

    Args:
        image: The loaded file.
        values: Its pixels [height, width] as Pillow reads them.
    """
    tags = image.tag_v2
    if image.mode == "L" and tags.get(SAMPLEFORMAT, (1,))[0] == SIGNED:
        return values ^ np.uint8(0x80)

    if image.mode.startswith("I;16") and tags.get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO:
        return ~values

    return values


def bits_of(image: TiffImageFile) -> int:
    """Return the bits of one value."""
    return int(image.tag_v2[BITSPERSAMPLE][0])
