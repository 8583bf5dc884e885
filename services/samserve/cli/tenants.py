"""`samserve tenants`: the tenants' weights, quotas and certificates' names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from samserve.cli.console import Command, Json, Output, out
from samserve.cli.keys import Tenant, load_snapshot, open_keys

if TYPE_CHECKING:
    from samserve.identity.snapshot import Snapshot
    from samserve.identity.tenants import TenantRecord

app = typer.Typer(help="What the tenants may use.", no_args_is_help=True)


@app.command("set", cls=Command)
def set_tenant(
    tenant: Tenant,
    weight: Annotated[
        float | None, typer.Option(help="Share in queues, compared with others; 0.01 to 100.")
    ] = None,
    requests: Annotated[int | None, typer.Option(min=0, help="In a minute; 0: no limit.")] = None,
    encodes: Annotated[int | None, typer.Option(min=0, help="In an hour; 0: no limit.")] = None,
    pixels: Annotated[
        int | None, typer.Option(min=0, help="Encoded in an hour; 0: no limit.")
    ] = None,
    cached_bytes: Annotated[
        int | None, typer.Option(min=0, help="Written to the cache in a day; 0: no limit.")
    ] = None,
    identity: Annotated[
        list[str] | None, typer.Option(help="Name in its certificates; give it for each.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Change what is given of a tenant's record. The services learn of it within seconds."""
    from samserve.core.errors import InvalidInput
    from samserve.core.plan import Plan
    from samserve.identity.snapshot import InvalidKeyStore
    from samserve.wire.callers import check_tenant

    output = Output(as_json)
    store, _ = open_keys(output)
    given = Plan(weight, requests, encodes, pixels, cached_bytes)
    changed: list[TenantRecord] = []

    def put(known: Snapshot) -> Snapshot:
        record = known.tenant(tenant)
        names = record.identities if identity is None else tuple(identity)
        record = replace(record, plan=given.with_defaults(record.plan), identities=names)
        changed.append(record)
        return replace(known, tenants={**known.tenants, tenant: record})

    with output.exit_on(mistakes=(InvalidInput, ValueError), failures=(InvalidKeyStore,)):
        check_tenant(tenant)
        Plan.from_json(given.to_json())
        store.change(put)

    if as_json:
        output.print_json(_row(changed[-1]))
    else:
        output.print_text(f"tenant {tenant}: {changed[-1].plan.write()}")


@app.command("list", cls=Command)
def list_tenants(as_json: Json = False) -> None:
    """List the tenants that have a record."""
    output = Output(as_json)
    store, _ = open_keys(output)
    records = sorted(load_snapshot(output, store).tenants.values(), key=lambda each: each.name)
    if as_json:
        output.print_json([_row(record) for record in records])
        return

    table = Table("tenant", "plan", "identities", box=None)
    for record in records:
        table.add_row(record.name, record.plan.write(), " ".join(record.identities))
    out.print(table)


def _row(record: TenantRecord) -> dict[str, object]:
    return {"tenant": record.name, **record.to_json()}
