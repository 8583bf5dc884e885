"""What an image file may contain: formats, codecs, and how many parts and scans. Pure.

All is checked before a pixel is decoded. A file that is cheap to send must be cheap to refuse.
"""

from __future__ import annotations

import io
import re

from PIL import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from samserve.core.errors import InvalidInput

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")

# Pillow's decoders of these formats that are written in C. Its others loop in Python over pixels:
# 41 KB of run-length BMP take 11 s.
CODECS = ("jpeg", "zip", "raw", "libtiff", "gif")

# Pillow's parsers read a marker, chunk or block at a time; a valid file has a few thousand.
MAX_READS = 100_000

# Bytes that the parsers may read for each byte of the file: tags of a TIFF can name the same bytes.
MAX_REREADS = 4

# A progressive JPEG has about 10 scans. An empty scan of 100 bytes costs a pass over all pixels.
MAX_SCANS = 32

# Markers of a JPEG after its first scan: tables and further scans.
MAX_MARKERS = 1_000

# The next marker in a scan's data: not a stuffed byte, a fill byte or a restart.
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"


class BoundedFile(io.BytesIO):
    """A file in memory that limits how often and how much Pillow's parsers read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._reads = MAX_READS
        self._bytes = MAX_REREADS * len(data) + 2**20

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as BytesIO does.

        Raises:
            InvalidInput: The file has too many parts.
        """
        part = super().read(size)
        self._reads -= 1
        self._bytes -= len(part)

        if self._reads < 0 or self._bytes < 0:
            raise InvalidInput(
                "data",
                f"the image file has more than {MAX_READS:,} parts (markers, chunks, blocks or "
                "tags); save it again",
            )
        return part


def check_codec(image: ImageFile.ImageFile) -> None:
    """Check how the pixels are coded.

    Raises:
        InvalidInput: By a variant of the format that is not supported.
    """
    codecs = {tile.codec_name for tile in image.tile}
    if codecs - set(CODECS):
        how = "run-length coding" if image.format == "BMP" else ", ".join(sorted(codecs))
        raise InvalidInput(
            "data", f"{image.format} with {how} is not supported; save it as a PNG or a JPEG"
        )


def check_scans(image: ImageFile.ImageFile, data: bytes) -> None:
    """Check the scans of a JPEG, each of which is a pass over all pixels.

    Args:
        image: Opened; its file stands at the first scan's data.
        data: The file.

    Raises:
        InvalidInput: There are too many.
    """
    if not isinstance(image, JpegImageFile) or image.fp is None:
        return

    # The data of a single scan is not searched: it takes time, and libjpeg reads no other.
    first = image.fp.tell()
    components = data[data.rfind(START_OF_SCAN, max(0, first - 16), first) + 4]
    if not image.info.get("progressive") and components == image.layers:
        return

    if _count_scans(data, first) > MAX_SCANS:
        raise InvalidInput(
            "data", f"the JPEG has more than {MAX_SCANS} scans; save it as a baseline JPEG"
        )


def _count_scans(data: bytes, position: int) -> int:
    """Count a JPEG's scans from the first one's data on; stop when they are too many."""
    scans = 1
    for _ in range(MAX_MARKERS):
        marker = MARKER.search(data, position)
        if marker is None or marker[0] == END_OF_IMAGE:
            return scans

        scans += marker[0] == START_OF_SCAN
        if scans > MAX_SCANS:
            return scans

        # Skip the segment.
        position = marker.end()
        position += max(2, int.from_bytes(data[position : position + 2], "big"))
    return MAX_SCANS + 1
