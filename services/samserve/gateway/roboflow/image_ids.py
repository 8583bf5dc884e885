"""The names that callers give to images, and the images' hashes."""

from __future__ import annotations

import re
from collections import OrderedDict

from samserve.core.errors import EmbeddingNotCached

MAX_IMAGE_IDS = 10_000  # that are remembered
_HASH = re.compile("[0-9a-f]{64}")


class ImageIds:
    """Remembers the hash of each named image. One for each process; the oldest are forgotten.

    A name belongs to the API key that it came with, so that callers with other keys never get
    another's image.
    """

    def __init__(self, most: int = MAX_IMAGE_IDS) -> None:
        self._most = most
        self._hashes: OrderedDict[tuple[str, str], str] = OrderedDict()

    def remember(self, key: str, image_id: str, image_hash: str) -> None:
        """Note which image was sent with a name."""
        self._hashes[key, image_id] = image_hash
        self._hashes.move_to_end((key, image_id))
        if len(self._hashes) > self._most:
            self._hashes.popitem(last=False)

    def find(self, key: str, image_id: str) -> str:
        """Return the hash of a named image; a hash is its own name.

        Raises:
            EmbeddingNotCached: The name is unknown.
        """
        known = self._hashes.get((key, image_id))
        if known is not None:
            return known
        if _HASH.fullmatch(image_id):
            return image_id
        raise EmbeddingNotCached(image_id)
