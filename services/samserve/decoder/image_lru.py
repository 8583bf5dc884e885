"""A cache of prepared images in this process, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict

from samserve.decoder.sam.prepared_image import ReadyImage
from samserve.infra.cache import CacheKey
from samserve.infra.metrics import RESIDENT_BYTES, RESIDENT_EVICTIONS, RESIDENT_LOOKUPS


class ImageLru:
    """Evicts the least recently used image first. Not thread-safe.

    An entry never changes under its key, so nothing is ever invalidated.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[CacheKey, ReadyImage] = OrderedDict()

    def get(self, key: CacheKey) -> ReadyImage | None:
        image = self._entries.get(key)
        RESIDENT_LOOKUPS.labels("miss" if image is None else "hit").inc()
        if image is not None:
            self._entries.move_to_end(key)
        return image

    def put(self, key: CacheKey, image: ReadyImage) -> None:
        """Add an image, and evict others to make room. Ignore an image larger than the bound."""
        if image.nbytes > self._max_bytes or key in self._entries:
            return

        self._entries[key] = image
        self._bytes += image.nbytes
        while self._bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self._bytes -= oldest.nbytes
            RESIDENT_EVICTIONS.inc()
        RESIDENT_BYTES.set(self._bytes)

    def __len__(self) -> int:
        return len(self._entries)
