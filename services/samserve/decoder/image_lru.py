"""A cache of prepared images in this process, bounded in bytes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from samserve.core.fair_lru import FairLru
from samserve.decoder.sam.prepared_image import ReadyImage
from samserve.infra.cache import CacheKey
from samserve.infra.deletions import Deletion, Generation
from samserve.infra.metrics import RESIDENT_BYTES, RESIDENT_EVICTIONS, RESIDENT_LOOKUPS

Place = tuple[str, str]  # owner and image id, that marks of deletions are read for


@dataclass(slots=True)
class _Resident:
    """An image, its generation when it was read, and when this was last seen to hold."""

    image: ReadyImage
    generation: Generation | None
    confirmed: float


class ImageLru:
    """Evicts the least recently used image of the tenant that has the most. Not thread-safe.

    An image is used while its generation has been confirmed within some time. So an image that was
    deleted elsewhere is not used for longer, even if this process learns of nothing.
    """

    def __init__(
        self,
        max_bytes: int,
        within: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create an empty cache.

        Args:
            max_bytes: Of all images.
            within: Seconds for which an image is used without a confirmation.
            clock: Seconds.
        """
        self._images: FairLru[CacheKey, _Resident] = FairLru(max_bytes)
        self._within = within
        self._clock = clock

    def get(self, key: CacheKey) -> ReadyImage | None:
        resident = self._images.get(key.owner, key)
        if resident is not None and self._clock() - resident.confirmed > self._within:
            resident = None
        RESIDENT_LOOKUPS.labels("miss" if resident is None else "hit").inc()
        return None if resident is None else resident.image

    def put(self, key: CacheKey, image: ReadyImage, generation: Generation | None = None) -> None:
        """Add an image, and evict others to make room. Ignore an image larger than the bound."""
        resident = _Resident(image, generation, self._clock())
        RESIDENT_EVICTIONS.inc(self._images.put(key.owner, key, resident, image.nbytes))
        RESIDENT_BYTES.set(self._images.size)

    def places(self) -> set[Place]:
        """Return the owners and ids of the images."""
        return {(owner, key.whole) for owner, key in self._images}

    def confirm(self, current: Mapping[Place, Generation], asked: float) -> set[Place]:
        """Forget the images whose generation is not the current one, and confirm the others.

        Args:
            current: The generations now; images of other places were added meanwhile.
            asked: When they were asked for, by the clock.

        Returns:
            The places of the images that were forgotten.
        """
        forgotten: set[Place] = set()
        for owner, key in list(self._images):
            resident = self._images.peek(owner, key)
            place = owner, key.whole
            if resident is None or place not in current or resident.confirmed > asked:
                continue
            if resident.generation == current[place]:
                resident.confirmed = asked
            else:
                self._images.pop(owner, key)
                forgotten.add(place)
        RESIDENT_BYTES.set(self._images.size)
        return forgotten

    def forget(self, deletion: Deletion) -> None:
        """Forget what was deleted."""
        for owner, key in list(self._images):
            if owner == deletion.owner and deletion.image_id in ("", key.whole):
                self._images.pop(owner, key)
        RESIDENT_BYTES.set(self._images.size)

    def __len__(self) -> int:
        return len(self._images)
