"""Runs the gateway: `python -m samserve.gateway.main`."""

from __future__ import annotations

import socket

import uvicorn
import uvloop
from prometheus_client import start_http_server

from samserve.client import AsyncClient
from samserve.gateway.app import build
from samserve.gateway.http_protocol import BoundedHttp
from samserve.gateway.service import Service
from samserve.infra import tracing
from samserve.infra.addresses import bare_host
from samserve.infra.logs import set_up_logs
from samserve.infra.settings import GatewaySettings, load_settings, parse_arguments

IDLE_S = 75  # an idle connection is kept this long, longer than load balancers keep theirs


async def serve(settings: GatewaySettings) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests in flight."""
    client = AsyncClient(
        settings.decoder_url, settings.embedding_url, timeout=settings.call_timeout_s
    )
    app = build(Service(settings, client))
    if settings.metrics_port:
        start_http_server(settings.metrics_port, bare_host(settings.host))

    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=BoundedHttp,
        ws="none",
        access_log=False,
        log_config=None,
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=round(settings.drain_s),
        server_header=False,
    )
    with listening(bare_host(settings.host), settings.gateway_port) as listener:
        await uvicorn.Server(config).serve([listener])


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens; `::` is all of IPv4 too, which asyncio would leave out.

    Raises:
        SystemExit: The address is in use, or not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host, port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise SystemExit(f"SAMSERVE_HOST={host}: cannot listen on port {port}: {error}") from error


def main() -> None:
    parse_arguments("python -m samserve.gateway.main", "Run the HTTP gateway.", GatewaySettings)
    settings = load_settings(GatewaySettings)
    set_up_logs("gateway", settings.log_level)
    tracing.set_up("gateway", settings.otlp_endpoint)
    uvloop.run(serve(settings))


if __name__ == "__main__":
    main()
