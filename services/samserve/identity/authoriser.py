"""Decides whose a call is, and whether it may pass. Pure."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from samserve.core.caller import Caller
from samserve.core.errors import InvalidInput, PermissionDenied, Unauthenticated
from samserve.identity.credentials import keys_of
from samserve.identity.keys import KeyHasher, key_id_of
from samserve.identity.scopes import DEFAULT, Scope, parse_scopes, scopes_for
from samserve.identity.snapshot import Snapshot
from samserve.wire.callers import check_tenant

LONGEST_NAME = 100  # characters of what names a token or a certificate in logs

_UNFIT = re.compile(r"[^A-Za-z0-9_.:/@-]")  # for a header and a log


@dataclass(frozen=True, slots=True)
class Claims:
    """Which claims of a token say what.

    Attributes:
        tenant: Holds the tenant.
        scope: Holds the scopes, separated by spaces; without it a token has the usual ones.
    """

    tenant: str = "tenant"
    scope: str = "scope"


@dataclass(frozen=True, slots=True)
class Call:
    """What the edge tells of a call.

    Attributes:
        method: Of HTTP.
        path: With the query.
        headers: By name, in lower case.
        body: Its first bytes, if the edge sends them.
        address: That the caller connects from.
        principal: Name in the caller's verified certificate; empty for none.
        claims: Of a token that the edge has verified; empty for none.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    address: str = ""
    principal: str = ""
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_grpc(self) -> bool:
        """Whether it is a gRPC call."""
        return self.headers.get("content-type", "").startswith("application/grpc")

    @property
    def route(self) -> str:
        """The path without the query."""
        return self.path.partition("?")[0]


@dataclass(frozen=True, slots=True)
class _Credentials:
    """Valid credentials: whose they are, and what they allow."""

    tenant: str
    key_id: str
    scopes: frozenset[Scope]


class Authoriser:
    """Checks a call's key, else its token, else its certificate."""

    def __init__(
        self, hasher: KeyHasher, claims: Claims, clock: Callable[[], float] = time.time
    ) -> None:
        """Create an authoriser; `clock` returns the seconds since 1970."""
        self._hasher = hasher
        self._claims = claims
        self._clock = clock
        self._no_digest = hasher.digest("")

    def check(self, call: Call, known: Snapshot) -> Caller:
        """Return the caller of a call that may pass.

        Raises:
            Unauthenticated: It has no valid credentials. What is wrong with them is not told.
            PermissionDenied: They do not allow the call.
        """
        found = self._by_key(call, known) or self._by_token(call) or self._by_name(call, known)
        if found is None:
            raise Unauthenticated
        if not found.scopes & scopes_for(call.method, call.route):
            raise PermissionDenied
        plan = known.tenant(found.tenant).plan
        return Caller(found.tenant, found.tenant, plan, found.key_id)

    def _by_key(self, call: Call, known: Snapshot) -> _Credentials | None:
        """Check what may be a key. An unknown id costs the same time as a wrong secret."""
        for key in keys_of(call.headers, call.path, call.body):
            key_id = key_id_of(key)
            if key_id is None:
                continue
            record = known.keys.get(key_id)
            digest = self._no_digest if record is None else record.digest
            matches = self._hasher.matches(key, digest)
            if matches and record is not None and record.is_valid(self._clock()):
                return _Credentials(record.tenant, key_id, record.scopes)
        return None

    def _by_token(self, call: Call) -> _Credentials | None:
        """Read a token's claims. The edge has checked signature, issuer, audience and time."""
        tenant, scopes = call.claims.get(self._claims.tenant), call.claims.get(self._claims.scope)
        if not isinstance(tenant, str):
            return None
        try:
            allowed = DEFAULT if scopes is None else parse_scopes(_known(str(scopes).split()))
            check_tenant(tenant)
        except InvalidInput:
            return None
        return _Credentials(tenant, _name("token", str(call.claims.get("sub", ""))), allowed)

    def _by_name(self, call: Call, known: Snapshot) -> _Credentials | None:
        """Find the tenant of the caller's certificate, which the edge has verified."""
        tenant = known.identities.get(call.principal) if call.principal else None
        if tenant is None:
            return None
        return _Credentials(tenant, _name("certificate", call.principal), DEFAULT)


def _name(kind: str, name: str) -> str:
    """Return a name for credentials without a key id."""
    return f"{kind}:{_UNFIT.sub('_', name[:LONGEST_NAME])}"


def _known(names: list[str]) -> list[str]:
    """Leave out the scopes of other services, which a token may have as well."""
    return [name for name in names if name in set(Scope)]
