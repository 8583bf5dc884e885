"""Runs the embedding service on a local Ray cluster: `python -m samserve.embedding.main`."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from samserve.infra.addresses import bare_host
from samserve.infra.folders import make_plain_folder
from samserve.infra.settings import EmbeddingSettings, load_settings, parse_arguments
from samserve.wire.channel import largest_message

# Holds images on their way to a replica. Ray's default is a third of the memory.
OBJECT_STORE_BYTES = 512 * 2**20

LARGEST_LOG = 32 * 2**20  # bytes of one of Ray's logs
OLD_LOGS = 3

SETUP_HOOK = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"  # a function that Ray's workers run first
PROXY_SECONDS = 60  # limit of a proxy's start, and of its answer to a health check

START_SECONDS = 60.0  # for Ray's node, instead of 30
LOST_CLUSTER = 1  # exit code
POLL_SECONDS = 0.5  # between two looks at Ray's processes


def main() -> None:
    parse_arguments(
        "python -m samserve.embedding.main", "Run the embedding service.", EmbeddingSettings
    )
    settings = load_settings(EmbeddingSettings)
    _exit_on_signals()
    with _folder(settings) as folder:
        for name, value in _environment(settings, folder).items():
            os.environ.setdefault(name, str(value))

        _serve(settings, folder)


def _serve(settings: EmbeddingSettings, folder: Path) -> None:
    # Ray reads its environment when it is imported.
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions, gRPCOptions
    from ray.serve.schema import LoggingConfig

    from samserve.embedding.app import GRPC_SERVICERS, build
    from samserve.infra.redis_link import UnsupportedRedis, refuse_cluster

    try:
        refuse_cluster(settings.redis_url, settings.redis_timeout_s)
    except UnsupportedRedis as error:
        sys.exit(f"the embedding service cannot start: {error}")

    _start_ray(folder)
    _exit_on_signals()  # Ray has replaced the handlers

    try:
        serve.start(
            http_options=HTTPOptions(host=bare_host(settings.host), port=settings.http_port),
            grpc_options=gRPCOptions(
                port=settings.embedding_port, grpc_servicer_functions=GRPC_SERVICERS
            ),
            logging_config=LoggingConfig(logs_dir=settings.ray_logs or None),
        )
        serve.run(build(settings), name="embedding", route_prefix="/embedding")
        _watch_cluster()
    finally:
        serve.shutdown()
        ray.shutdown()


def _environment(settings: EmbeddingSettings, folder: Path) -> dict[str, object]:
    """Variables that Ray, and prometheus_client in the replicas, read when they are imported."""
    proxy = folder / "h"  # a path of a socket is short
    local = settings.host in ("127.0.0.1", "localhost")
    hook = "set_up_on_loopback" if local else "set_up"

    return {
        # RAY_SERVE_ENABLE_HA_PROXY=0 restores Ray's own proxy (docs/decisions/0011). User code
        # stays on the replica's one event loop, because grpc.aio has one poller per process.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": 0,
        "RAY_SERVE_ENABLE_HA_PROXY": 1,
        SETUP_HOOK: f"samserve.embedding.ray_worker.{hook}",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": 8503,  # the default is our gRPC port
        "RAY_SERVE_LOG_TO_STDERR": 0,
        "RAY_USAGE_STATS_ENABLED": 0,
        # Ray's 5 s to start a proxy, and 10 s to answer, do not suffice on a busy machine.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": PROXY_SECONDS,
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": PROXY_SECONDS,
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": 1,  # a dead manager of HAProxy fails three
        # Replicas drain for 30 s by default, longer than Serve waits when it stops.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": 1,
        "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": largest_message(settings.max_image_bytes),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": round(settings.idle_timeout_s),
        "RAY_SERVE_HAPROXY_MAXCONN": settings.max_connections,
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": 2**16,
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": proxy / "haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": proxy / "admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": proxy,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": proxy / "server-state",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": proxy / "metrics.sock",
        # Only holders of the token may run code in the cluster. Ray's own file is readable by all.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": _write_token(folder / "token"),
        # Ray takes a node's address for the one that it reaches the Internet from, but with this.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": int(not local),
        "RAY_ROTATION_MAX_BYTES": LARGEST_LOG,
        "RAY_ROTATION_BACKUP_COUNT": OLD_LOGS,
        "PROMETHEUS_MULTIPROC_DIR": _make(folder / "metrics"),
    }


def _start_ray(folder: Path) -> None:
    """Start a cluster of this machine.

    Raises:
        SystemExit: It did not start.
    """
    import ray
    from ray._private import services

    services.get_node = _patient(services.get_node)

    try:
        ray.init(
            address="local",
            include_dashboard=False,
            configure_logging=False,
            log_to_driver=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=str(_make(folder / "ray")),
        )
    except Exception as problem:
        reason = str(problem).partition("\n")[0]
        sys.exit(f"Ray did not start: {reason}")


def _patient(get_node: Callable[..., Any]) -> Callable[..., Any]:
    """Ray waits 30 s for its node, too little for a busy machine; wait longer here."""

    def get_node_when_it_is_up(*arguments: Any) -> Any:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return get_node(*arguments)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(POLL_SECONDS)

    return get_node_when_it_is_up


def _watch_cluster() -> None:
    """End this program when a part of Ray that all others need has died; else do not return.

    Ray itself would notice after a minute.
    """
    import ray

    needed = {"gcs_server", "raylet"}
    waiting = threading.Event()

    while not waiting.wait(POLL_SECONDS):
        node = ray._private.worker._global_node
        if dead := needed & {kind for kind, _ in node.dead_processes()}:
            sys.stderr.write(f"Ray's {', '.join(sorted(dead))} died: the cluster is lost\n")
            sys.stderr.flush()
            os._exit(LOST_CLUSTER)  # an orderly end would wait for the dead


def _exit_on_signals() -> None:
    """Have SIGTERM and SIGINT end the program with code 0, through its `finally` blocks."""

    def stop(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        sys.exit(0)

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        signal.signal(number, stop)


@contextmanager
def _folder(settings: EmbeddingSettings) -> Iterator[Path]:
    """The folder for sockets, metrics and Ray's files: the one that is set, or a temporary one."""
    if settings.run_folder:
        yield Path(settings.run_folder)
        return

    folder = make_plain_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_token(file: Path) -> Path:
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(secrets.token_hex(32))
    return file


def _make(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


if __name__ == "__main__":
    main()
