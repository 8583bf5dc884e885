"""Values of Envoy's configuration, as protobuf's JSON has them."""

from __future__ import annotations

import ipaddress
from typing import Any

Json = dict[str, Any]

FILTERS = "envoy.extensions.filters.http"


def typed(kind: str, **fields: Any) -> Json:
    """Return a message of a kind that is written into it."""
    return {"@type": f"type.googleapis.com/{kind}", **fields}


def extension(name: str, kind: str, **fields: Any) -> Json:
    """Return an extension: its name, and its configuration."""
    return {"name": name, "typed_config": typed(kind, **fields)}


def seconds(value: float) -> str:
    """Return a duration."""
    return f"{value:g}s" if value < 1e6 else f"{round(value)}s"


def socket_address(host: str, port: int) -> Json:
    """Return an address to listen on or to connect to; `::` takes IPv4 too."""
    fields: Json = {"address": host, "port_value": port}
    if host == "::":
        fields["ipv4_compat"] = True
    return {"socket_address": fields}


def split_server(server: str) -> tuple[str, int]:
    """Return host and port; an IPv6 address without its brackets."""
    host, _, port = server.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_address(host: str) -> bool:
    """Whether a host is an IP address, which needs no resolver."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
