"""A bounded number of places, of which one tenant may hold a share. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from samserve.core.caller import current_caller
from samserve.core.errors import Overloaded


class Holders:
    """Counts who holds places. For one event loop."""

    def __init__(self, most: int, share: float = 1.0) -> None:
        """Create the places.

        Args:
            most: How many.
            share: Part of them that one tenant may hold.
        """
        self._most = most
        self._each = max(1, int(most * share))
        self._held: Counter[str] = Counter()

    @contextmanager
    def hold(self, refusal: Overloaded, tenant: str = "") -> Iterator[None]:
        """Hold a place for a tenant, by default the current caller's.

        Raises:
            Overloaded: There is none; this is `refusal`.
        """
        tenant = tenant or current_caller().tenant
        if self._held.total() >= self._most or self._held[tenant] >= self._each:
            raise refusal

        self._held[tenant] += 1
        try:
            yield
        finally:
            self._held[tenant] -= 1
            if not self._held[tenant]:
                del self._held[tenant]
