"""All keys and tenants at one time. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from samserve.core.errors import InvalidInput, SamserveError
from samserve.identity.keys import KeyRecord
from samserve.identity.tenants import TenantRecord

MOST_KEYS = 100_000


class InvalidKeyStore(SamserveError):
    """The store of keys cannot be read, or holds something else."""


@dataclass(frozen=True)
class Snapshot:
    """Keys by id, and tenants by name."""

    keys: Mapping[str, KeyRecord] = field(default_factory=dict)
    tenants: Mapping[str, TenantRecord] = field(default_factory=dict)

    @cached_property
    def identities(self) -> dict[str, str]:
        """The tenant of each name in a certificate."""
        return {
            identity: tenant.name
            for tenant in self.tenants.values()
            for identity in tenant.identities
        }

    def tenant(self, name: str) -> TenantRecord:
        """Return a tenant; one without a record has the defaults."""
        return self.tenants.get(name) or TenantRecord(name)

    def to_json(self) -> dict[str, Any]:
        """Return everything."""
        return {
            "tenants": {name: tenant.to_json() for name, tenant in self.tenants.items()},
            "keys": {key_id: key.to_json() for key_id, key in self.keys.items()},
        }

    @classmethod
    def from_json(cls, value: Any) -> Snapshot:
        """Read everything.

        Raises:
            InvalidKeyStore: It is something else, or too much.
        """
        try:
            keys, tenants = value.get("keys", {}), value.get("tenants", {})
            if len(keys) > MOST_KEYS:
                raise InvalidKeyStore(f"{len(keys):,} keys; the limit is {MOST_KEYS:,}")
            return cls(
                {key_id: KeyRecord.from_json(key_id, each) for key_id, each in keys.items()},
                {name: TenantRecord.from_json(name, each) for name, each in tenants.items()},
            )
        except (AttributeError, InvalidInput, KeyError, TypeError, ValueError) as problem:
            # Not the text: it might quote a record.
            raise InvalidKeyStore(f"no records of keys: {type(problem).__name__}") from None
