"""The ports that the services listen on by default, and the addresses that clients then use."""

from __future__ import annotations

EMBEDDING_PORT = 8500
DECODER_PORT = 8501
HTTP_PORT = 8502
GATEWAY_PORT = 8503
IDENTITY_PORT = 8505
EDGE_PORT = 8504

EMBEDDING_ADDRESS = f"127.0.0.1:{EMBEDDING_PORT}"
DECODER_ADDRESS = f"127.0.0.1:{DECODER_PORT}"
GATEWAY_ADDRESS = f"127.0.0.1:{GATEWAY_PORT}"


def bare_host(host: str) -> str:
    """Return an interface without the brackets of an IPv6 address, as sockets take it."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def join_address(host: str, port: int) -> str:
    """Return `host:port`, with brackets around an IPv6 address."""
    host = bare_host(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
