"""What a bulk run can be asked to do: the scheduler's decisions, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from samserve.client.image import ImageInput


@dataclass(frozen=True, slots=True)
class HashImage:
    """Compute an image's id; report `hashed` or `hashing_failed`."""

    image: ImageInput


@dataclass(frozen=True, slots=True)
class ReadImage:
    """Read an image's bytes; report `loaded` or `loading_failed`."""

    image_id: str
    image: ImageInput


@dataclass(frozen=True, slots=True)
class EmbedAlone:
    """Embed an image in a call of its own; report `embedded` or `failed`."""

    image_id: str
    data: bytes


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Open a stream; report `answered` and `stream_ended` with its number."""

    stream: int


@dataclass(frozen=True, slots=True)
class CloseStream:
    """Close the open stream."""


@dataclass(frozen=True, slots=True)
class SendHash:
    """Ask for an image by hash, on the open stream."""

    item: int
    image_id: str


@dataclass(frozen=True, slots=True)
class SendBytes:
    """Send an image's bytes, on the open stream."""

    item: int
    data: bytes


Action: TypeAlias = (
    HashImage | ReadImage | EmbedAlone | OpenStream | CloseStream | SendHash | SendBytes
)
