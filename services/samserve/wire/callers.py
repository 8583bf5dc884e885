"""Who makes a call, by its metadata, which are believed from the edge alone.

The edge checks the caller's credentials, removes them, and sets the metadata below. With a secret
that only the edge and the services know, a service refuses all calls without it. A call past the
edge would otherwise choose its tenant itself.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import structlog
from structlog.contextvars import bound_contextvars

from samserve.core.caller import DEFAULT_TENANT, Caller, acting_for, current_caller
from samserve.core.errors import InvalidInput, PermissionDenied, Unauthenticated, shorten
from samserve.core.limits import MAX_METADATA_BYTES, check_count
from samserve.core.plan import Plan
from samserve.infra.addresses import join_address
from samserve.wire.channel import is_loopback
from samserve.wire.metadata import EDGE_KEY, TENANT_KEY

KEY_ID_KEY = "samserve-key-id"
PLAN_KEY = "samserve-plan"
log = structlog.get_logger()

IDENTITY_KEYS = (TENANT_KEY, EDGE_KEY, KEY_ID_KEY, PLAN_KEY)  # the edge removes a caller's own

SHARED_OWNER = "shared"  # of all cache entries, if tenants share them

_TENANT = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_KEY_ID = re.compile(r"[A-Za-z0-9_.:/@-]{1,128}")


def check_tenant(name: str) -> str:
    """Return a tenant's name. Raises InvalidInput if it is invalid."""
    if not _TENANT.fullmatch(name):
        raise InvalidInput(
            TENANT_KEY,
            f"invalid tenant {shorten(name)!r}: use 1 to 64 letters, digits, '_', '.' or '-'",
        )
    return name


def check_own_tenant(name: str, caller: Caller) -> None:
    """Check that a caller deletes its own tenant, and no other's embeddings with it.

    Raises:
        PermissionDenied: It names another tenant.
        InvalidInput: Its embeddings are others', too.
    """
    if name != caller.tenant:
        raise PermissionDenied
    if caller.owner != caller.tenant:
        raise InvalidInput(
            "tenant",
            "tenant: tenants share their embeddings (SAMSERVE_TENANTS=shared); "
            "delete images one by one",
        )


class EdgeSettings(Protocol):
    """The settings that concern callers."""

    @property
    def host(self) -> str: ...
    @property
    def edge_secrets(self) -> tuple[str, ...]: ...
    @property
    def tenants_share(self) -> bool: ...


class Callers:
    """Reads who makes a call, and tells it to other services."""

    @classmethod
    def of(cls, settings: EdgeSettings) -> Callers:
        """Return the reader for a program's settings. Warns of one that is open to others."""
        if not settings.edge_secrets and not is_loopback(join_address(settings.host, 0)):
            log.warning(
                "every caller names its tenant itself; set SAMSERVE_EDGE_SECRET",
                host=settings.host,
            )
        return cls(settings.edge_secrets, shared=settings.tenants_share)

    def __init__(self, secrets: Iterable[str] = (), *, shared: bool = False) -> None:
        """Believe metadata that come with a secret.

        Args:
            secrets: Of the edge; the first is sent, each is accepted. None: all calls are believed.
            shared: Whether all tenants share their cache entries.
        """
        self._secrets = [secret for secret in secrets if secret]
        self._shared = shared

    def read(self, metadata: Iterable[tuple[str, str | bytes]]) -> Caller:
        """Return who makes a call.

        Raises:
            Unauthenticated: The call did not pass the edge.
            InvalidInput: The tenant's name is invalid, or the metadata are over their limit.
        """
        metadata = tuple(metadata)
        size = sum(len(key) + len(value) for key, value in metadata)
        check_count(size, MAX_METADATA_BYTES, "metadata", "bytes")

        sent = {key: str(value) for key, value in reversed(metadata) if key in IDENTITY_KEYS}
        if self._secrets and not self._knows(sent.get(EDGE_KEY, "")):
            raise Unauthenticated

        tenant = check_tenant(sent.get(TENANT_KEY, DEFAULT_TENANT))
        key_id = sent.get(KEY_ID_KEY, "")
        return Caller(
            tenant,
            owner=SHARED_OWNER if self._shared else tenant,
            plan=self._plan(sent.get(PLAN_KEY, "")),
            key_id=key_id if _KEY_ID.fullmatch(key_id) else "",
        )

    @contextmanager
    def acting(self, metadata: Iterable[tuple[str, str | bytes]]) -> Iterator[Caller]:
        """Act for the caller during the block; its log lines have the tenant. Raises as `read`."""
        caller = self.read(metadata)
        with acting_for(caller), bound_contextvars(tenant=caller.tenant):
            yield caller

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what tells the current caller to another service, but for the tenant itself."""
        caller = current_caller()
        key_id, plan = caller.key_id, caller.plan
        return (
            *(((EDGE_KEY, self._secrets[0]),) if self._secrets else ()),
            *(((KEY_ID_KEY, key_id),) if key_id else ()),
            *(((PLAN_KEY, plan.write()),) if self._secrets else ()),
        )

    def _plan(self, text: str) -> Plan:
        """Return a tenant's plan: from the edge, and never from a stranger."""
        return Plan.read(text) if self._secrets and text else Plan()

    def _knows(self, secret: str) -> bool:
        """Compare with every secret, in a time that does not tell how much of it is right."""
        sent = secret.encode()
        matches = [hmac.compare_digest(sent, known.encode()) for known in self._secrets]
        return any(matches)
