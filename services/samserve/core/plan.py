"""What a tenant may use: its weight in queues, and its quotas. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

LEAST_WEIGHT, MOST_WEIGHT = 0.01, 100.0
MOST_QUOTA = 10**15

_ITEM = re.compile(r"([a-z_]{1,20})=([0-9.]{1,20})")


@dataclass(frozen=True, slots=True)
class Plan:
    """A tenant's share and quotas. None means the default of the settings, 0 no limit.

    Attributes:
        weight: Share in queues, compared with the other tenants that wait.
        requests: Calls, steps of streams and items in a minute.
        encodes: Images that are encoded in an hour.
        pixels: Pixels of these images in an hour.
        cached_bytes: Bytes in the cache; the oldest embeddings are removed beyond it.
    """

    weight: float | None = None
    requests: int | None = None
    encodes: int | None = None
    pixels: int | None = None
    cached_bytes: int | None = None

    @property
    def share(self) -> float:
        """The weight, 1 if none is set."""
        return 1.0 if self.weight is None else self.weight

    def with_defaults(self, defaults: Plan) -> Plan:
        """Return the plan with the values of another in place of those that are not set."""
        mine, theirs = self.to_json(), defaults.to_json()
        return Plan(**{**theirs, **mine})

    def to_json(self) -> dict[str, Any]:
        """Return the values that are set."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Plan:
        """Return a plan. Raises ValueError or TypeError if a value is no number within bounds."""
        for name, number in value.items():
            least, most = (LEAST_WEIGHT, MOST_WEIGHT) if name == "weight" else (0, MOST_QUOTA)
            if not math.isfinite(number) or not least <= number <= most:
                raise ValueError(f"{name}: {number} is not between {least:g} and {most:g}")
        whole = {
            name: number if name == "weight" else int(number) for name, number in value.items()
        }
        return cls(**whole)

    def write(self) -> str:
        """Return the text of a header, never empty."""
        return " ".join(f"{name}={value}" for name, value in self.to_json().items()) or "default"

    @staticmethod
    @lru_cache(1024)
    def read(text: str) -> Plan:
        """Return the plan of a header. What is not understood is left out: it is a newer edge's."""
        known = {each.name for each in fields(Plan)}
        found = {name: float(number) for name, number in _ITEM.findall(text) if name in known}
        try:
            return Plan.from_json(found)
        except (ValueError, TypeError):
            return Plan()


NO_PLAN = Plan()  # everything by default
