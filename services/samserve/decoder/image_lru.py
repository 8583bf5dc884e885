"""A cache of prepared images in this process, bounded in bytes."""

from __future__ import annotations

from samserve.core.fair_lru import FairLru
from samserve.decoder.sam.prepared_image import ReadyImage
from samserve.infra.cache import CacheKey
from samserve.infra.metrics import RESIDENT_BYTES, RESIDENT_EVICTIONS, RESIDENT_LOOKUPS


class ImageLru:
    """Evicts the least recently used image of the tenant that has the most. Not thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self._images: FairLru[CacheKey, ReadyImage] = FairLru(max_bytes)

    def get(self, key: CacheKey) -> ReadyImage | None:
        image = self._images.get(key.owner, key)
        RESIDENT_LOOKUPS.labels("miss" if image is None else "hit").inc()
        return image

    def put(self, key: CacheKey, image: ReadyImage) -> None:
        """Add an image, and evict others to make room. Ignore an image larger than the bound."""
        if (key.owner, key) in self._images:
            return
        RESIDENT_EVICTIONS.inc(self._images.put(key.owner, key, image, image.nbytes))
        RESIDENT_BYTES.set(self._images.size)

    def __len__(self) -> int:
        return len(self._images)
