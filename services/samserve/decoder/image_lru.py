"""Images kept ready in this process, bounded in bytes; the least recently used go first."""

from __future__ import annotations

from collections import OrderedDict

from samserve.decoder.sam.prepared_image import ReadyImage
from samserve.infra.cache import CacheKey
from samserve.infra.metrics import RESIDENT_BYTES, RESIDENT_EVICTIONS, RESIDENT_LOOKUPS


class ImageLru:
    """An LRU. An entry never changes under its key, so nothing is ever invalidated. Not for several threads."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._bytes = most_bytes, 0
        self._entries: OrderedDict[CacheKey, ReadyImage] = OrderedDict()

    def get(self, key: CacheKey) -> ReadyImage | None:
        found = self._entries.get(key)
        RESIDENT_LOOKUPS.labels("miss" if found is None else "hit").inc()
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def put(self, key: CacheKey, image: ReadyImage) -> None:
        """Keep it; one larger than the bound is not kept at all."""
        if image.nbytes > self._most or key in self._entries:
            return
        self._entries[key] = image
        self._bytes += image.nbytes
        while self._bytes > self._most:
            _, oldest = self._entries.popitem(last=False)
            self._bytes -= oldest.nbytes
            RESIDENT_EVICTIONS.inc()
        RESIDENT_BYTES.set(self._bytes)

    def __len__(self) -> int:
        return len(self._entries)
