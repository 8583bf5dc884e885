"""What is kept of a tenant. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from samserve.core.plan import NO_PLAN, Plan
from samserve.wire.callers import check_tenant

MOST_IDENTITIES = 100  # of a tenant


@dataclass(frozen=True, slots=True)
class TenantRecord:
    """A tenant.

    Attributes:
        name: Of the tenant.
        plan: Its weight and quotas.
        identities: Names in certificates that speak for it, such as a SPIFFE id.
    """

    name: str
    plan: Plan = NO_PLAN
    identities: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the record without the name."""
        return {"plan": self.plan.to_json(), "identities": list(self.identities)}

    @classmethod
    def from_json(cls, name: str, value: dict[str, Any]) -> TenantRecord:
        """Return the record. Raises ValueError, KeyError or TypeError if it is none."""
        identities = tuple(map(str, value.get("identities", ())))
        return cls(check_tenant(name), Plan.from_json(value.get("plan", {})), identities)
