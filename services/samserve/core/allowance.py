"""A part of a quota that one process may spend without asking. Pure.

Quotas hold for fixed windows of time, counted in one place for all processes. A process leases
units there in advance, so that what it allows costs no round trip. Until the first answer of a
window it spends on credit, at most the quota.
"""

from __future__ import annotations

from dataclasses import dataclass

LEASES = 50  # of a quota; a process that leaves one unused keeps so little from the others


@dataclass(slots=True)
class Allowance:
    """What is left in the current window.

    Attributes:
        limit: Units in a window, of all processes together.
        seconds: Length of a window.
        window: Number of the current one.
        leased: Units that may be spent.
        owed: Units that were spent on credit.
        spent: Whether the quota is spent.
    """

    limit: int
    seconds: float
    window: int = -1
    leased: int = 0
    owed: int = 0
    spent: bool = False

    def take(self, units: int, now: float) -> float:
        """Spend units; return 0, or the seconds until the next window if the quota is spent."""
        wait = self.check(now)
        if wait:
            return wait
        covered = min(units, self.leased)
        self.leased -= covered
        self.owed += units - covered
        return 0.0

    def check(self, now: float) -> float:
        """Return what `take` would, without spending anything."""
        window = int(now // self.seconds)
        if window != self.window:
            self.window, self.leased, self.owed, self.spent = window, 0, 0, False
        if self.leased > 0 or (not self.spent and self.owed < self.limit):
            return 0.0
        return (window + 1) * self.seconds - now

    def need(self) -> int:
        """Return how many units to count in the common place now, 0 for none."""
        lease = max(1, self.limit // LEASES)
        if self.spent:
            return self.owed  # what was under way still counts
        return self.owed + lease if self.owed or self.leased < lease // 2 else 0

    def counted(self, window: int, asked: int, total: int) -> None:
        """Note that units were counted.

        Args:
            window: That they were counted in.
            asked: How many.
            total: Of all processes, with these.
        """
        if window != self.window:
            return
        over = max(0, total - self.limit)
        allowed = max(0, asked - over)
        credit = min(self.owed, asked)
        self.owed -= credit
        self.leased += max(0, allowed - credit)
        self.spent = over > 0 or total == self.limit
