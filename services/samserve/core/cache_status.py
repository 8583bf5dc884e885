"""Where the embedding of an answer came from."""

from __future__ import annotations

from enum import Enum


class CacheStatus(Enum):
    """The values are the labels of metrics; the names are those of the protos."""

    HIT = "hit"  # it was there already
    MISS = "miss"  # it was made for this request
    COALESCED = "coalesced"  # another request was making it already
