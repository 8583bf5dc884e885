"""The token for Label Studio: a legacy token, or a personal access token that is exchanged."""

from __future__ import annotations

import asyncio
import time

import orjson

from samserve.gateway.fetch import Fetcher, FetchFailed

REFRESH_SECONDS = 240.0  # for which an access token is used; Label Studio's live five minutes
FIELD = "SAMSERVE_LABEL_STUDIO_TOKEN"


class Credentials:
    """Writes the header that authorizes a request."""

    def __init__(self, token: str, base: str, fetcher: Fetcher) -> None:
        """Keep the token.

        Args:
            token: Legacy (40 hexadecimal digits) or personal access token (a JWT); may be empty.
            base: URL of Label Studio.
            fetcher: That may fetch from it.
        """
        self._token = token.strip()
        self._base = base
        self._fetcher = fetcher
        self._access = ""
        self._access_until = 0.0
        self._lock = asyncio.Lock()

    def __str__(self) -> str:
        """Its kind; never the token."""
        if not self._token:
            return "no token"
        return "personal access token" if self.is_personal else "legacy token"

    @property
    def is_personal(self) -> bool:
        """Whether the token is exchanged for short-lived ones."""
        return self._token.count(".") == 2

    async def headers(self) -> dict[str, str]:
        """Return the header. Raises FetchFailed if the token is refused."""
        if not self._token:
            return {}
        if not self.is_personal:
            return {"Authorization": f"Token {self._token}"}

        async with self._lock:  # one exchange for all that wait
            if time.monotonic() >= self._access_until:
                self._access = await self._exchange()
                self._access_until = time.monotonic() + REFRESH_SECONDS
        return {"Authorization": f"Bearer {self._access}"}

    def expire(self) -> None:
        """Exchange the token again before the next request."""
        self._access_until = 0.0

    async def _exchange(self) -> str:
        body = await self._fetcher.fetch(
            f"{self._base}/api/token/refresh/",
            FIELD,
            body=orjson.dumps({"refresh": self._token}),
        )
        try:
            access = orjson.loads(body)["access"]
        except (orjson.JSONDecodeError, KeyError, TypeError) as problem:
            raise FetchFailed(FIELD, "Label Studio answered no access token") from problem
        return str(access)
