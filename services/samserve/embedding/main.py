"""Runs the embedding service on a local Ray cluster: `python -m samserve.embedding.main`."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading

# Ray reads these when it is imported. RAY_SERVE_ENABLE_HA_PROXY=0 restores Ray's own proxy
# (docs/decisions/0011). User code stays on the replica's one event loop, because grpc.aio has one
# poller per process. Usage statistics are off.
os.environ.setdefault("RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD", "0")
os.environ.setdefault("RAY_SERVE_ENABLE_HA_PROXY", "1")
os.environ.setdefault("RAY_SERVE_FALLBACK_PROXY_HTTP_PORT", "8503")  # the default is our gRPC port
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")

# prometheus_client reads this when it is imported, here and in the replicas: their metrics' folder.
os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", tempfile.mkdtemp(prefix="samserve-metrics-"))

import ray
from ray import serve
from ray.serve.config import HTTPOptions, gRPCOptions

from samserve.embedding.app import GRPC_SERVICERS, build
from samserve.infra.addresses import bare_host
from samserve.infra.settings import EmbeddingSettings, load_settings, parse_arguments

# Holds images on their way to a replica. Ray's default is a third of the memory.
OBJECT_STORE_BYTES = 512 * 2**20


def main() -> None:
    parse_arguments(
        "python -m samserve.embedding.main", "Run the embedding service.", EmbeddingSettings
    )
    settings = load_settings(EmbeddingSettings)

    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())

    ray.init(
        address="local",
        include_dashboard=False,
        configure_logging=False,
        log_to_driver=False,
        object_store_memory=OBJECT_STORE_BYTES,
    )
    try:
        serve.start(
            http_options=HTTPOptions(host=bare_host(settings.host), port=settings.http_port),
            grpc_options=gRPCOptions(
                port=settings.embedding_port, grpc_servicer_functions=GRPC_SERVICERS
            ),
        )
        serve.run(build(settings), name="embedding", route_prefix="/embedding")
        stopping.wait()
    finally:
        serve.shutdown()
        ray.shutdown()
        shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)


if __name__ == "__main__":
    main()
