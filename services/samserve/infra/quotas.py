"""The tenants' quotas, counted in Redis for all processes together.

Without Redis each process counts alone, and so allows each tenant its quota.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from enum import Enum

from samserve.core.allowance import Allowance
from samserve.core.caller import current_caller
from samserve.core.errors import QuotaSpent
from samserve.core.plan import NO_PLAN, Plan
from samserve.infra.metrics import QUOTAS_SPENT
from samserve.infra.redis_link import RedisLink

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0  # seconds
MOST_ALLOWANCES = 20_000  # that are kept; those of past windows are dropped first


class Quota(Enum):
    """What is counted: its name in a plan, the length of a window, and words for errors."""

    REQUESTS = ("requests", MINUTE, "requests a minute")
    ENCODES = ("encodes", HOUR, "encoded images an hour")
    PIXELS = ("pixels", HOUR, "encoded pixels an hour")
    CACHED_BYTES = ("cached_bytes", DAY, "bytes written to the cache a day")


class Quotas:
    """Allows or refuses work of the current caller's tenant. For one event loop."""

    def __init__(
        self,
        link: RedisLink | None = None,
        defaults: Plan = NO_PLAN,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Create them.

        Args:
            link: To the common counts; None counts in this process alone.
            defaults: For tenants whose plan does not say.
            clock: Seconds since 1970, whose windows are the same in all processes.
        """
        self._link = link
        self._defaults = defaults
        self._clock = clock
        self._allowances: dict[tuple[str, Quota], Allowance] = {}
        self._counting: dict[tuple[str, Quota], asyncio.Task[None]] = {}

    def take(self, quota: Quota, units: int = 1) -> None:
        """Spend units of a quota.

        Raises:
            QuotaSpent: It is spent.
        """
        self._use(quota, units)

    def check(self, *quotas: Quota) -> None:
        """Check that quotas are not spent. Raises QuotaSpent."""
        for quota in quotas:
            self._use(quota, 0)

    def _use(self, quota: Quota, units: int) -> None:
        caller = current_caller()
        name, seconds, words = quota.value
        limit = getattr(caller.plan, name)
        limit = getattr(self._defaults, name) if limit is None else limit
        if not limit:
            return

        place = caller.tenant, quota
        allowance = self._allowances.get(place)
        if allowance is None or allowance.limit != limit:
            allowance = self._allowances[place] = Allowance(limit, seconds)
            self._tidy()
        now = self._clock()
        wait = allowance.take(units, now) if units else allowance.check(now)
        self._count(place, allowance)
        if wait:
            QUOTAS_SPENT.labels(name).inc()
            raise QuotaSpent(f"{limit:,} {words}", wait)

    def _count(self, place: tuple[str, Quota], allowance: Allowance) -> None:
        """Have units counted in the background, once at a time."""
        if self._link is None or place in self._counting or not allowance.need():
            return
        task = asyncio.create_task(self._count_in_redis(self._link, place, allowance))
        self._counting[place] = task
        task.add_done_callback(lambda _: self._counting.pop(place, None))

    async def _count_in_redis(
        self, link: RedisLink, place: tuple[str, Quota], allowance: Allowance
    ) -> None:
        tenant, quota = place
        window, asked = allowance.window, allowance.need()
        name = f"samserve-quota:{tenant}:{quota.value[0]}:{window}"
        expiry = int(2 * allowance.seconds)
        answers = await link.try_call("quota", ("INCRBY", name, asked), ("EXPIRE", name, expiry))
        if answers is not None:
            allowance.counted(window, asked, int(answers[0]))

    def _tidy(self) -> None:
        if len(self._allowances) <= MOST_ALLOWANCES:
            return
        now = self._clock()
        self._allowances = {
            place: each
            for place, each in self._allowances.items()
            if each.window == int(now // each.seconds)
        }
