"""API keys: their text, and what is kept of each. Pure.

A key is `samserve_ID_SECRET`. The id names its record; the secret has 256 random bits, so that a
fast keyed hash of it is as good as a slow one. Only the hash is kept, and it is worth nothing
without the pepper, which lies elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Any

from samserve.identity.scopes import Scope, parse_scopes

PREFIX = "samserve_"
LONGEST_KEY = 128  # characters; longer credentials are not looked at
LONGEST_NAME = 100  # characters of what a key is for

_KEY = re.compile(rf"{PREFIX}([0-9a-f]{{12}})_([A-Za-z0-9-]{{32,64}})")


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is kept of a key. Times are seconds since 1970.

    Attributes:
        key_id: Names the key in lists and logs.
        tenant: That it belongs to.
        digest: Keyed hash of the whole key, in hexadecimal.
        scopes: What it allows.
        name: What it is for, in its owner's words.
        created: When.
        expires: When it ends; None: never.
        revoked: When it was revoked; None: it was not.
    """

    key_id: str
    tenant: str
    digest: str
    scopes: frozenset[Scope]
    name: str
    created: float
    expires: float | None = None
    revoked: float | None = None

    def is_valid(self, now: float) -> bool:
        """Whether the key has neither expired nor been revoked."""
        return self.revoked is None and (self.expires is None or now < self.expires)

    def state(self, now: float) -> str:
        """Return a word for lists."""
        if self.revoked is not None:
            return "revoked"
        return "valid" if self.is_valid(now) else "expired"

    def to_json(self) -> dict[str, Any]:
        """Return the record without the id."""
        return {
            "tenant": self.tenant,
            "digest": self.digest,
            "scopes": sorted(self.scopes),
            "name": self.name,
            "created": self.created,
            "expires": self.expires,
            "revoked": self.revoked,
        }

    @classmethod
    def from_json(cls, key_id: str, value: dict[str, Any]) -> KeyRecord:
        """Return the record. Raises ValueError, KeyError or TypeError if it is none."""
        return cls(**{**value, "key_id": key_id, "scopes": parse_scopes(value["scopes"])})


def new_key() -> tuple[str, str]:
    """Return a new key's id and its text, which is shown once and never kept."""
    key_id = secrets.token_hex(6)
    secret = secrets.token_hex(32)
    return key_id, f"{PREFIX}{key_id}_{secret}"


def key_id_of(key: str) -> str | None:
    """Return the id in a key, or None if the text is no key."""
    match = _KEY.fullmatch(key) if len(key) <= LONGEST_KEY else None
    return match[1] if match else None


class KeyHasher:
    """Hashes keys with a pepper, by keyed BLAKE2b: a few microseconds each."""

    def __init__(self, pepper: str) -> None:
        self._pepper = hashlib.sha256(pepper.encode()).digest()  # of the length that BLAKE2b takes

    def digest(self, key: str) -> str:
        """Return the hash of a key, in hexadecimal."""
        return hashlib.blake2b(key.encode(), digest_size=32, key=self._pepper).hexdigest()

    def matches(self, key: str, digest: str) -> bool:
        """Whether a key has this hash, in a time that does not tell how much of it does."""
        return hmac.compare_digest(self.digest(key), digest)
