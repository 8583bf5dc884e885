"""Serves the metrics of all processes of a service on this machine at one port.

With PROMETHEUS_MULTIPROC_DIR in the environment, set before prometheus_client is imported,
processes keep their metrics in files of that folder. The process that holds the port serves them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
RETRY_SECONDS = 2.0  # between attempts to bind a port that another process holds


def share_metrics(port: int, host: str) -> None:
    """Serve the metrics of all processes from a thread, as soon as the port is free."""
    threading.Thread(
        target=_serve_when_free,
        args=(port, host, Path(os.environ[FOLDER])),
        name="metrics",
        daemon=True,
    ).start()


def _serve_when_free(port: int, host: str, folder: Path) -> None:
    registry = CollectorRegistry()
    registry.register(_LiveProcesses(folder))

    while True:
        try:
            start_http_server(port, host, registry)
        except OSError:  # another process holds the port
            time.sleep(RETRY_SECONDS)
        else:
            return


class _LiveProcesses(Collector):
    """The metrics of all processes, without the gauges of dead ones."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = MultiProcessCollector(None, str(folder))

    def collect(self) -> Iterable[Metric]:
        for file in self._folder.glob("gauge_live*.db"):
            pid = file.stem.rsplit("_", 1)[1]
            if not Path(f"/proc/{pid}").exists():
                mark_process_dead(int(pid), str(self._folder))

        metrics: Iterable[Metric] = self._files.collect()
        return metrics
