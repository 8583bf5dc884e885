"""Finds the image of a call: sent as base64, fetched by URL, or named by an id."""

from __future__ import annotations

from typing import Any

from samserve.client import CachedImage
from samserve.core.caller import current_caller
from samserve.core.errors import InvalidInput, shorten
from samserve.gateway.base64_image import decode_image
from samserve.gateway.roboflow.image_ids import ImageIds
from samserve.gateway.roboflow.requests import Image, ImageCall
from samserve.gateway.service import Service


class Images:
    """The images of calls. One for each process."""

    def __init__(self, service: Service) -> None:
        self._service = service
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
            return CachedImage(self._ids.find(current_caller().owner, key, call.image_id))
        raise InvalidInput("image", "image: missing; send it, or the image_id of an earlier call")

    def remember(self, call: ImageCall, key: str, image_hash: str) -> None:
        """Note the name of an image that was sent."""
        if call.image is not None and call.image_id:
            self._ids.remember(current_caller().owner, key, call.image_id, image_hash)

    async def _read(self, image: Image) -> bytes:
        kind = image.type.lower()
        most = self._service.settings.max_image_bytes
        if kind == "base64":
            return await decode_image(_text(image.value), "image.value", most)
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
        settings = self._service.settings
        if not settings.image_hosts and not settings.private_image_hosts:
            raise InvalidInput(
                "image.type",
                "image.type 'url' is off; list hosts in SAMSERVE_IMAGE_HOSTS, or send base64",
            )
        return await self._service.fetcher.fetch(url, "image.value")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidInput("image.value", "image.value: expected a string")
    return value
