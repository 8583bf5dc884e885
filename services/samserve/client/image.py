"""Images as callers give them: a path or encoded bytes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from samserve.core.image_id import image_id

ImageInput: TypeAlias = str | Path | bytes  # a file's path, or the encoded bytes

CHUNK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class HashedImage:
    """Encoded bytes and their SHA-256."""

    data: bytes
    image_id: str


def read_bytes(image: ImageInput) -> bytes:
    """Return the encoded bytes. Raises OSError if the file cannot be read."""
    return image if isinstance(image, bytes) else Path(image).read_bytes()


def read_id(image: ImageInput) -> str:
    """Return the image's id; a file is hashed in chunks. Raises OSError if it cannot be read."""
    if isinstance(image, bytes):
        return image_id(image)
    digest = hashlib.sha256()
    with Path(image).open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
