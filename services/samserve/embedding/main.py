"""Runs the embedding service on a Ray cluster of this machine: `python -m samserve.embedding.main`."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading

# Read by Ray as it is imported. RAY_SERVE_ENABLE_HA_PROXY=0 brings Ray's own proxy back (docs/decisions/0011).
# Replicas keep user code on their one loop, as grpc.aio has one poller a process; nothing is reported anywhere.
os.environ.setdefault("RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD", "0")
os.environ.setdefault("RAY_SERVE_ENABLE_HA_PROXY", "1")
os.environ.setdefault(
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT", "8503"
)  # by default 8500, where our gRPC is
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")

# Read by prometheus_client as it is imported, here and in the replicas: where they leave their metrics.
os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", tempfile.mkdtemp(prefix="samserve-metrics-"))

import ray
from ray import serve
from ray.serve.config import HTTPOptions, gRPCOptions

from samserve.embedding.app import GRPC_SERVICERS, build
from samserve.infra.settings import EmbeddingSettings, load_settings

OBJECT_STORE_BYTES = (
    512 * 2**20
)  # only images on their way to a replica; Ray would take a third of the memory


def main() -> None:
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
            http_options=HTTPOptions(host=settings.host, port=settings.http_port),
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
