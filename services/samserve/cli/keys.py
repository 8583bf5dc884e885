"""`samserve keys`: creates, lists and revokes API keys. A key itself is printed once."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from samserve.cli.console import Command, Json, Output, out

if TYPE_CHECKING:
    from samserve.identity.keys import KeyRecord
    from samserve.identity.snapshot import Snapshot
    from samserve.identity.store import KeyStore

app = typer.Typer(help="API keys of the tenants.", no_args_is_help=True)

Tenant = Annotated[str, typer.Argument(help="1 to 64 letters, digits, '_', '.' or '-'.")]
Scopes = Annotated[
    list[str] | None,
    typer.Option("--scope", help="predict, embed, delete or admin; give it for each."),
]
Expiry = Annotated[
    str, typer.Option(help="Lifetime, such as 12h or 90d; empty: until it is revoked.")
]

SECONDS = {"m": 60, "h": 3600, "d": 86400}


@app.command("create", cls=Command)
def create(
    tenant: Tenant,
    scope: Scopes = None,
    expires: Expiry = "",
    name: Annotated[str, typer.Option(help="What the key is for.")] = "",
    as_json: Json = False,
) -> None:
    """Create a key for a tenant and print it. It cannot be shown again."""
    from samserve.core.errors import InvalidInput
    from samserve.identity.keys import LONGEST_NAME, KeyHasher, KeyRecord, new_key
    from samserve.identity.scopes import DEFAULT, parse_scopes
    from samserve.wire.callers import check_tenant

    output = Output(as_json)
    with output.exit_on(mistakes=(InvalidInput, ValueError)):
        check_tenant(tenant)
        if len(name) > LONGEST_NAME:
            raise ValueError(f"--name has {len(name)} characters; the limit is {LONGEST_NAME}")
        now = time.time()
        store, pepper = open_keys(output)
        key_id, key = new_key()
        record = KeyRecord(
            key_id,
            tenant,
            KeyHasher(pepper).digest(key),
            parse_scopes(scope) if scope else DEFAULT,
            name,
            created=now,
            expires=now + _seconds(expires) if expires else None,
        )
    _change(output, store, record)

    if as_json:
        output.print_json({**_row(record, now), "key": key})
    else:
        output.print_text(key)


@app.command("list", cls=Command)
def list_keys(
    tenant: Annotated[str, typer.Option(help="Of this tenant only.")] = "", as_json: Json = False
) -> None:
    """List the keys, without the keys themselves."""
    output = Output(as_json)
    store, _ = open_keys(output)
    now = time.time()
    records = [
        record
        for record in load_snapshot(output, store).keys.values()
        if tenant in ("", record.tenant)
    ]
    records.sort(key=lambda record: (record.tenant, record.created))
    if as_json:
        output.print_json([_row(record, now) for record in records])
        return
    _print(records, now)


@app.command("revoke", cls=Command)
def revoke(
    key_id: Annotated[str, typer.Argument(help="The id that `samserve keys list` shows.")],
    as_json: Json = False,
) -> None:
    """Revoke a key. Within a second no new call passes with it; nothing is restarted."""
    output = Output(as_json)
    store, _ = open_keys(output)
    record = load_snapshot(output, store).keys.get(key_id)
    if record is None:
        output.fail(2, f"unknown key {key_id[:100]!r}; `samserve keys list` shows the ids")
    if record.revoked is None:
        record = replace(record, revoked=time.time())
        _change(output, store, record)

    if as_json:
        output.print_json(_row(record, time.time()))
    else:
        output.print_text(f"key {key_id} of {record.tenant} is revoked")


def open_keys(output: Output) -> tuple[KeyStore, str]:
    """Return the store and the pepper: of the environment, or of this machine."""
    from samserve.identity.server import open_store
    from samserve.infra.settings import KeySettings, load_settings
    from samserve.local.keys import local_keys

    settings = load_settings(KeySettings)
    url, pepper = settings.keys_url.get_secret_value(), settings.key_pepper.get_secret_value()
    if not settings.keys_file and not url:
        here = local_keys()
        return open_store(str(here.file), ""), pepper or here.pepper
    if not pepper:
        output.fail(2, "set SAMSERVE_KEY_PEPPER, the secret that keys are hashed with")
    return open_store(settings.keys_file, url), pepper


def load_snapshot(output: Output, store: KeyStore) -> Snapshot:
    """Return everything, or end the command."""
    from samserve.identity.snapshot import InvalidKeyStore

    with output.exit_on(failures=(InvalidKeyStore,)):
        return store.load()


def _change(output: Output, store: KeyStore, record: KeyRecord) -> None:
    """Add or replace a record."""
    from samserve.identity.snapshot import InvalidKeyStore

    def put(known: Snapshot) -> Snapshot:
        return replace(known, keys={**known.keys, record.key_id: record})

    with output.exit_on(failures=(InvalidKeyStore,)):
        store.change(put)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([1-9][0-9]{0,5})([mhd])", text)
    if match is None:
        raise ValueError(f"invalid lifetime {text[:100]!r}: use a number and m, h or d, as in 90d")
    return int(match[1]) * SECONDS[match[2]]


def _row(record: KeyRecord, now: float) -> dict[str, object]:
    return {
        "id": record.key_id,
        "tenant": record.tenant,
        "scopes": sorted(record.scopes),
        "name": record.name,
        "state": record.state(now),
        "created": _date(record.created),
        "expires": _date(record.expires),
    }


def _date(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()[:19] + "Z"


def _print(records: Iterable[KeyRecord], now: float) -> None:
    table = Table("id", "tenant", "scopes", "state", "expires", "name", box=None)
    for record in records:
        table.add_row(
            record.key_id,
            record.tenant,
            " ".join(sorted(record.scopes)),
            record.state(now),
            _date(record.expires) or "never",
            record.name,
        )
    out.print(table)
