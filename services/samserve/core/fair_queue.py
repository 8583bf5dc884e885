"""A queue in which tenants share what it waits for by their weights. Pure.

This is start-time fair queueing (Goyal, Vin, Cheng 1997), with tags for the first item of each
tenant only. The first item has a start tag: the finish tag of the tenant's last one, but not less
than the virtual time, which is the start tag of the last item that left the queue. A finish tag is
the start tag and 1 / weight. The item with the lowest start tag is next. So a tenant that was idle
has saved up nothing, and one that sends much waits behind itself alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

MOST_IDLE = 64  # tenants without items whose tags are kept, before those in the past are dropped


@dataclass(slots=True)
class _Line(Generic[T]):
    """A tenant's items by their numbers, in order of arrival."""

    weight: float
    start: float
    items: OrderedDict[int, T] = field(default_factory=OrderedDict)


class FairQueue(Generic[T]):
    """Items of tenants. Not thread-safe."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line[T]] = {}
        self._finish: dict[str, float] = {}  # of tenants without items
        self._virtual = 0.0
        self._number = 0
        self._tenants: dict[int, str] = {}

    def push(self, tenant: str, item: T, weight: float = 1.0) -> int:
        """Add an item; return its number, by which it can be removed."""
        line = self._lines.get(tenant)
        if line is None:
            start = max(self._virtual, self._finish.pop(tenant, 0.0))
            line = self._lines[tenant] = _Line(weight, start)
        line.weight = weight

        self._number += 1
        line.items[self._number] = item
        self._tenants[self._number] = tenant
        return self._number

    def pop(self) -> T:
        """Remove the next item and return it. Raises IndexError if there is none."""
        if not self._lines:
            raise IndexError("the queue is empty")
        tenant = min(self._lines, key=self._order)
        line = self._lines[tenant]
        number, item = line.items.popitem(last=False)
        del self._tenants[number]

        self._virtual = line.start
        line.start += 1 / line.weight
        self._tidy(tenant)
        return item

    def remove(self, number: int) -> T | None:
        """Remove an item, which then costs its tenant nothing; None if it has left already."""
        tenant = self._tenants.pop(number, None)
        if tenant is None:
            return None
        item = self._lines[tenant].items.pop(number)
        self._tidy(tenant)
        return item

    def pop_excess(
        self, tenant: str, weight: float, may_go: Callable[[T], bool] = lambda _: True
    ) -> T | None:
        """Make room in a full queue for an item of a tenant.

        Removes and returns the newest item of the tenant with the most items for its weight, if it
        has more than this one will have; else None.

        Args:
            tenant: Of the item to come.
            weight: Of this tenant.
            may_go: Whether an item may be removed.
        """
        counts = {
            name: [number for number, item in line.items.items() if may_go(item)]
            for name, line in self._lines.items()
        }
        own = (len(counts.get(tenant, ())) + 1) / weight
        excess = {
            name: len(numbers) / self._lines[name].weight
            for name, numbers in counts.items()
            if name != tenant
        }
        largest = max(excess, key=excess.__getitem__, default=None)
        if largest is None or excess[largest] <= own:
            return None
        return self.remove(counts[largest][-1])

    def __len__(self) -> int:
        return len(self._tenants)

    def _order(self, tenant: str) -> tuple[float, int]:
        line = self._lines[tenant]
        return line.start, next(iter(line.items))

    def _tidy(self, tenant: str) -> None:
        """Drop an empty line, and the tags that have no effect any more."""
        line = self._lines[tenant]
        if line.items:
            return
        del self._lines[tenant]
        if not self._lines:  # nobody waits, so nobody has anything ahead of others
            self._finish.clear()
            self._virtual = 0.0
            return

        self._finish[tenant] = line.start
        if len(self._finish) > MOST_IDLE:
            self._finish = {name: tag for name, tag in self._finish.items() if tag > self._virtual}
