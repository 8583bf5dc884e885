"""Finds the image of a call: sent as base64, fetched by URL, or named by an id."""

from __future__ import annotations

from typing import Any

from samserve.client import CachedImage
from samserve.core.errors import InvalidInput, shorten
from samserve.gateway.base64_image import decode_image
from samserve.gateway.fetch import Fetcher
from samserve.gateway.roboflow.image_ids import ImageIds
from samserve.gateway.roboflow.requests import Image, ImageCall


class Images:
    """The images of calls."""

    def __init__(self, fetcher: Fetcher | None, most: int) -> None:
        """Remember no image.

        Args:
            fetcher: Fetches URLs; None refuses them.
            most: Bytes of an encoded image.
        """
        self._fetcher = fetcher
        self._most = most
        self._ids = ImageIds()

    async def find(self, call: ImageCall, key: str) -> bytes | CachedImage:
        """Return the bytes of an image that was sent, or the hash of one that was only named.

        Raises:
            InvalidInput: There is no image, or it cannot be read.
            EmbeddingNotCached: The id is unknown.
        """
        if call.image is not None:
            return await self._read(call.image)
        if call.image_id:
            return CachedImage(self._ids.find(key, call.image_id))
        raise InvalidInput("image", "image: missing; send it, or the image_id of an earlier call")

    def remember(self, call: ImageCall, key: str, image_hash: str) -> None:
        """Note the name of an image that was sent."""
        if call.image is not None and call.image_id:
            self._ids.remember(key, call.image_id, image_hash)

    async def _read(self, image: Image) -> bytes:
        kind = image.type.lower()
        if kind == "base64":
            return await decode_image(_text(image.value), "image.value", self._most)
        if kind == "url":
            return await self._fetch(_text(image.value))
        if kind == "numpy":
            raise InvalidInput(
                "image.type", "image.type 'numpy' is a pickle, which is never read; send base64"
            )
        raise InvalidInput(
            "image.type", f"unknown image.type {shorten(image.type)!r}; available: base64, url"
        )

    async def _fetch(self, url: str) -> bytes:
        if self._fetcher is None:
            raise InvalidInput(
                "image.type",
                "image.type 'url' is off; list hosts in SAMSERVE_IMAGE_HOSTS, or send base64",
            )
        return await self._fetcher.fetch(url, "image.value")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidInput("image.value", "image.value: expected a string")
    return value
