"""Where metrics are read: one port for all processes of a service on this machine.

With PROMETHEUS_MULTIPROC_DIR in the environment (before prometheus_client is imported) processes keep their metrics in
files there, and whoever has the port answers for all of them.
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
PAUSE = 2.0  # seconds until a port that another process has is tried again


def share_metrics(port: int, host: str) -> None:
    """Serve the metrics of all processes that share the folder, as soon as no other process does."""
    threading.Thread(
        target=_take_port, args=(port, host, Path(os.environ[FOLDER])), name="metrics", daemon=True
    ).start()


def _take_port(port: int, host: str, folder: Path) -> None:
    registry = CollectorRegistry()
    registry.register(_LiveProcesses(folder))
    while True:
        try:
            start_http_server(port, host, registry)
        except OSError:  # another process has it
            time.sleep(PAUSE)
        else:
            return


class _LiveProcesses(Collector):
    """The metrics of all processes, without the gauges of those that have died."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._files = folder, MultiProcessCollector(None, str(folder))

    def collect(self) -> Iterable[Metric]:
        for file in self._folder.glob("gauge_live*.db"):
            pid = file.stem.rsplit("_", 1)[1]
            if not Path(f"/proc/{pid}").exists():
                mark_process_dead(int(pid), str(self._folder))
        metrics: Iterable[Metric] = self._files.collect()
        return metrics
