"""Runs the authoriser: `python -m samserve.identity`."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import grpc.aio
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from prometheus_client import start_http_server

from samserve.identity.authoriser import Authoriser, Claims
from samserve.identity.failures import Failures
from samserve.identity.keys import KeyHasher
from samserve.identity.redis_store import RedisStore
from samserve.identity.servicer import SERVICE, AuthorizationServicer, add_to_server
from samserve.identity.store import FileStore, KeyStore
from samserve.identity.watched import WatchedKeys
from samserve.infra.addresses import bare_host, join_address
from samserve.infra.logs import set_up_logs
from samserve.infra.settings import IdentitySettings, load_settings, parse_arguments
from samserve.wire.channel import METADATA_LIMITS

DRAIN_S = 2.0

log = structlog.get_logger()


def open_store(keys_file: str, keys_url: str, timeout: float = 1.0) -> KeyStore:
    """Return the store that the settings name: a Redis, else a file."""
    return RedisStore(keys_url, timeout) if keys_url else FileStore(Path(keys_file))


async def serve(settings: IdentitySettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    store = open_store(settings.keys_file, settings.keys_url.get_secret_value())
    keys = WatchedKeys(store, settings.keys_grace_s)
    secrets = settings.edge_secrets
    servicer = AuthorizationServicer(
        Authoriser(
            KeyHasher(settings.key_pepper.get_secret_value()),
            Claims(settings.jwt_tenant_claim, settings.jwt_scope_claim),
        ),
        keys,
        Failures(settings.failure_burst, settings.failures_per_minute),
        secrets[0] if secrets else "",
    )

    server = grpc.aio.server(options=METADATA_LIMITS)
    add_to_server(servicer, server)
    checks = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    port = server.add_insecure_port(join_address(settings.host, settings.identity_port))
    if settings.metrics_port:
        start_http_server(settings.metrics_port, bare_host(settings.host))

    await keys.refresh()
    watching = asyncio.create_task(keys.watch())
    await server.start()
    for name in ("", SERVICE):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    log.info("ready", port=port)

    await _signalled()
    await server.stop(DRAIN_S)
    watching.cancel()


async def _signalled() -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await stopping.wait()


def main() -> None:
    parse_arguments("python -m samserve.identity", "Run the authoriser.", IdentitySettings)
    settings = load_settings(IdentitySettings)
    set_up_logs("identity", settings.log_level)
    if not settings.key_pepper.get_secret_value():
        sys.exit("the authoriser cannot start: set SAMSERVE_KEY_PEPPER")
    if not settings.keys_file and not settings.keys_url.get_secret_value():
        sys.exit("the authoriser cannot start: set SAMSERVE_KEYS_FILE or SAMSERVE_KEYS_URL")
    asyncio.run(serve(settings))
