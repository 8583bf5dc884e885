"""Keys and tenants in a Redis of their own, one that does not evict. Calls block: use a thread."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, WatchError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from samserve.identity.snapshot import InvalidKeyStore, Snapshot
from samserve.identity.store import Change

RECORDS = "samserve-identity:records"  # one value, since it is read whole
VERSION = "samserve-identity:version"
ATTEMPTS = 20  # of a change that others change meanwhile


class RedisStore:
    """Keeps everything under one key, and counts the changes under another."""

    def __init__(self, url: str, timeout: float) -> None:
        self._redis = Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )

    def version(self) -> str:
        with _translated():
            return str(self._redis.get(VERSION) or "none")

    def load(self) -> Snapshot:
        with _translated():
            return _parse(self._redis.get(RECORDS))

    def change(self, change: Change) -> None:
        with _translated(), self._redis.pipeline() as pipe:
            for _ in range(ATTEMPTS):
                try:
                    pipe.watch(RECORDS)  # type: ignore[no-untyped-call]
                    changed = change(_parse(pipe.get(RECORDS)))
                    pipe.multi()
                    pipe.set(RECORDS, json.dumps(changed.to_json()))
                    pipe.incr(VERSION)
                    pipe.execute()
                    return
                except WatchError:
                    continue
        raise InvalidKeyStore("others change the keys all the time; try again")


def _parse(value: object) -> Snapshot:
    if value is None:
        return Snapshot()
    if not isinstance(value, bytes):
        raise InvalidKeyStore("no records of keys in Redis")
    try:
        return Snapshot.from_json(json.loads(value))
    except ValueError:
        raise InvalidKeyStore("no JSON in Redis") from None


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as problem:
        # Not the text: it might have the URL's password.
        raise InvalidKeyStore(f"Redis: {type(problem).__name__}") from None
