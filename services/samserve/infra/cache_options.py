"""Options of the cache of embeddings."""

from __future__ import annotations

from dataclasses import dataclass, field

from samserve.core.image import ImageRange
from samserve.core.plan import NO_PLAN, Plan


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """Options of the cache.

    Attributes:
        url: redis://..., rediss://... or unix://...
        ttl: Lifetime of an entry since its last use, in seconds.
        timeout: Time limit of one operation, in seconds.
        image_range: How images of 16 bits become 8, which changes their embeddings.
        secret: Seals the entries; empty leaves them unsealed.
        quotas: Of tenants whose plan does not say.
    """

    url: str
    ttl: int
    timeout: float
    image_range: ImageRange = "full"
    secret: str = field(default="", repr=False)
    quotas: Plan = NO_PLAN

    def name(self, key: object) -> str:
        """Return the name of an entry in Redis; `key` is a CacheKey."""
        return str(key) if self.image_range == "full" else f"{key}:{self.image_range}"
