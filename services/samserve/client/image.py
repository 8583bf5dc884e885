"""Images as callers give them, and the encoded bytes that are sent."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np

from samserve.client.png import encode_png
from samserve.core.arrays import Bytes
from samserve.core.errors import InvalidInput
from samserve.core.image_id import image_id

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

# A file's path, the encoded bytes, a file open for reading, a Pillow image, or pixels uint8
# [H, W, 3] RGB. Pixels are sent as PNG.
ImageInput: TypeAlias = Union[
    str, Path, bytes, bytearray, memoryview, IO[bytes], "PilImage", Bytes, "CachedImage"
]

CHUNK_BYTES = 2**20
WIDE_MODES = ("I", "F")  # Pillow's modes of more than 8 bits begin so; "I;16" too


@dataclass(frozen=True, slots=True)
class CachedImage:
    """An image that is named only. A call raises EmbeddingNotCached if it must be embedded first.

    Attributes:
        image_id: SHA-256 of the encoded bytes, 64 lower-case hexadecimal digits.
    """

    image_id: str


@dataclass(frozen=True, slots=True)
class HashedImage:
    """An image's SHA-256, and its encoded bytes unless it is only named."""

    image_id: str
    data: bytes | None


def hashed_image(image: ImageInput, last: HashedImage) -> HashedImage:
    """Read and hash an image. Repeated calls with the same bytes object reuse its hash.

    Args:
        image: As callers give it.
        last: The image of the call before.

    Raises:
        OSError: The file cannot be read.
        InvalidInput: This is no image of a known kind.
    """
    if isinstance(image, CachedImage):
        return HashedImage(image.image_id, None)
    data = read_bytes(image)
    return last if last.data is data else HashedImage(image_id(data), data)


def read_bytes(image: ImageInput) -> bytes:
    """Return the encoded bytes.

    Raises:
        OSError: The file cannot be read.
        InvalidInput: This is no image of a known kind.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, Path)):
        return Path(image).read_bytes()
    if isinstance(image, (bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, np.ndarray):
        return encode_png(_check_pixels(image))
    if _is_pillow(image):
        return encode_png(_pixels_of(image))
    if hasattr(image, "read"):
        return _read_file(image)

    if isinstance(image, CachedImage):
        raise InvalidInput("image", "this call needs the image's bytes, not only its id")
    raise InvalidInput(
        "image",
        f"an image of type {type(image).__name__} is not supported; give a path, bytes, a file "
        "open for reading, a Pillow image, or an array uint8 [height, width, 3]",
    )


def read_id(image: ImageInput) -> str:
    """Return the image's id; a file is hashed in chunks. Raises as `read_bytes`."""
    if isinstance(image, CachedImage):
        return image.image_id
    if not isinstance(image, (str, Path)):
        return image_id(read_bytes(image))
    digest = hashlib.sha256()
    with Path(image).open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _read_file(file: Any) -> bytes:
    """Read a file from its start, if it can be wound back."""
    if hasattr(file, "seekable") and file.seekable():
        file.seek(0)
    data = file.read()
    if not isinstance(data, bytes):
        raise InvalidInput(
            "image", f"the file gives {type(data).__name__}; open it for bytes, with mode 'rb'"
        )
    return data


def _check_pixels(pixels: Any) -> Bytes:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise InvalidInput(
            "image",
            f"an array {pixels.dtype} {list(pixels.shape)} is not supported as an image; "
            "give uint8 [height, width, 3], RGB",
        )
    checked: Bytes = pixels
    return checked


def _is_pillow(image: object) -> bool:
    """Whether this is a Pillow image; Pillow is not imported for it."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(image, pillow.Image)


def _pixels_of(image: Any) -> Bytes:
    """The pixels of a Pillow image as they are in memory, in RGB."""
    if image.mode.startswith(WIDE_MODES):
        raise InvalidInput(
            "image",
            f"a Pillow image of mode {image.mode!r} is not supported; convert it to 8 bits, "
            "or give the file itself",
        )
    return _check_pixels(np.asarray(image.convert("RGB")))
