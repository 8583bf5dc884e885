"""The names that callers give to images, and the images' hashes."""

from __future__ import annotations

import re

from samserve.core.errors import EmbeddingNotCached
from samserve.core.fair_lru import FairLru

MAX_IMAGE_IDS = 10_000  # that are remembered
_HASH = re.compile("[0-9a-f]{64}")


class ImageIds:
    """Remembers the hash of each named image. One for each process; the oldest are forgotten.

    A name belongs to its tenant, and to the API key that it came with if the edge left it. So
    nobody gets another's image.
    """

    def __init__(self, most: int = MAX_IMAGE_IDS) -> None:
        self._hashes: FairLru[tuple[str, str], str] = FairLru(most)

    def remember(self, owner: str, key: str, image_id: str, image_hash: str) -> None:
        """Note which image was sent with a name, by a tenant with an API key."""
        self._hashes.put(owner, (key, image_id), image_hash)

    def find(self, owner: str, key: str, image_id: str) -> str:
        """Return the hash of a named image; a hash is its own name.

        Raises:
            EmbeddingNotCached: The name is unknown.
        """
        known = self._hashes.get(owner, (key, image_id))
        if known is not None:
            return known
        if _HASH.fullmatch(image_id):
            return image_id
        raise EmbeddingNotCached(image_id)
