"""Embeddings kept in this process, bounded in bytes; the least recently used go first."""

from __future__ import annotations

from collections import OrderedDict

from samserve.core.cache import CacheKey
from samserve.core.embedding import Embedding
from samserve.core.telemetry import RESIDENT_BYTES


class Resident:
    """An LRU. An entry never changes under its key, so nothing is ever invalidated. Not for several threads."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._bytes = most_bytes, 0
        self._entries: OrderedDict[CacheKey, Embedding] = OrderedDict()

    def get(self, key: CacheKey) -> Embedding | None:
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, key: CacheKey, embedding: Embedding) -> None:
        """Keep it; one larger than the bound is not kept at all."""
        if embedding.nbytes > self._most or key in self._entries:
            return
        self._entries[key] = embedding
        self._bytes += embedding.nbytes
        while self._bytes > self._most:
            _, oldest = self._entries.popitem(last=False)
            self._bytes -= oldest.nbytes
        RESIDENT_BYTES.set(self._bytes)

    def __len__(self) -> int:
        return len(self._entries)
