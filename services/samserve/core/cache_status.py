"""Where the embedding behind an answer came from."""

from __future__ import annotations

from enum import Enum


class CacheStatus(Enum):
    """The values label the metrics; the names are those of the protos."""

    HIT = "hit"  # found in the cache
    MISS = "miss"  # encoded for this request
    COALESCED = "coalesced"  # encoded for another request at the same time
