"""A bounded cache in which nobody can evict what others keep within their share. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class FairLru(Generic[K, V]):
    """Entries of owners. The owner with the most bytes loses its least recently used entry first.

    An owner alone has the whole cache. Not thread-safe.

    Attributes:
        size: Of all entries together.
    """

    def __init__(self, most: int) -> None:
        """Create an empty cache; `most` bounds the sum of the entries' sizes."""
        self._most = most
        self._entries: dict[str, OrderedDict[K, tuple[V, int]]] = {}
        self._sizes: dict[str, int] = {}
        self.size = 0

    def get(self, owner: str, key: K) -> V | None:
        """Return an entry and mark it as used, or None."""
        entries = self._entries.get(owner)
        if entries is None or key not in entries:
            return None
        entries.move_to_end(key)
        return entries[key][0]

    def peek(self, owner: str, key: K) -> V | None:
        """Return an entry without marking it as used, or None."""
        return self._entries[owner][key][0] if (owner, key) in self else None

    def put(self, owner: str, key: K, value: V, size: int = 1) -> int:
        """Add or replace an entry, and evict others to make room; one over the bound is ignored.

        Returns:
            How many were evicted.
        """
        self.pop(owner, key)
        if size > self._most:
            return 0

        self._entries.setdefault(owner, OrderedDict())[key] = value, size
        self._add(owner, size)
        evicted = 0
        while self.size > self._most:
            largest = max(self._sizes, key=self._sizes.__getitem__)
            self.pop(largest, next(iter(self._entries[largest])))
            evicted += 1
        return evicted

    def pop(self, owner: str, key: K) -> V | None:
        """Remove an entry and return it, or None."""
        entries = self._entries.get(owner)
        if entries is None or key not in entries:
            return None
        value, size = entries.pop(key)
        self._add(owner, -size)
        return value

    def pop_owner(self, owner: str) -> int:
        """Remove all entries of an owner; return how many there were."""
        keys = list(self._entries.get(owner, ()))
        for key in keys:
            self.pop(owner, key)
        return len(keys)

    def __contains__(self, entry: tuple[str, K]) -> bool:
        owner, key = entry
        return key in self._entries.get(owner, ())

    def __iter__(self) -> Iterator[tuple[str, K]]:
        """Yield owners and keys, each owner's least recently used first."""
        for owner, entries in self._entries.items():
            for key in entries:
                yield owner, key

    def __len__(self) -> int:
        return sum(map(len, self._entries.values()))

    def _add(self, owner: str, size: int) -> None:
        self.size += size
        self._sizes[owner] = self._sizes.get(owner, 0) + size
        if not self._entries[owner]:
            del self._entries[owner], self._sizes[owner]
