"""The whole configuration of Envoy, from the settings."""

from __future__ import annotations

from pathlib import Path

from samserve.edge import tls
from samserve.edge.clusters import clusters
from samserve.edge.listeners import listeners
from samserve.edge.overload import overload_manager
from samserve.edge.values import Json
from samserve.infra.settings import EdgeSettings

# Resets of calls soon after their start, which cost a server more than their caller. A connection
# ends if most of this many calls were reset within a second.
MOST_RESETS = 200
CALLS_PER_TURN = 4  # of one connection, before others get their turn

BUCKETS_MS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000, 300_000]

UNUSED = (
    r"(thread_local|runtime|filesystem|workers|main_thread|listener_manager|dns|http1|http2"
    r"|listener\.(admin|.*worker)|http\.(admin|async|metrics)|.*\.(http1|http2|external|internal)\.).*"
)


def configuration(settings: EdgeSettings, folder: Path, connections: int | None = None) -> Json:
    """Return Envoy's bootstrap configuration.

    Args:
        settings: The edge's.
        folder: Holds the admin socket and the SDS files; only the edge's user may enter it.
        connections: Limit of callers' connections, if the system allows fewer than the settings.
    """
    return {
        "node": {"id": "edge", "cluster": "samserve"},
        "admin": {"address": {"pipe": {"path": str(folder / "admin"), "mode": 0o600}}},
        "static_resources": {
            "listeners": listeners(settings, folder),
            "clusters": clusters(settings, folder),
        },
        "overload_manager": overload_manager(settings, connections or settings.edge_connections),
        "layered_runtime": {"layers": [{"name": "fixed", "static_layer": _runtime()}]},
        "stats_config": {
            # Without these there are four times as many, of use to Envoy's developers.
            "stats_matcher": {"exclusion_list": {"patterns": [{"safe_regex": {"regex": UNUSED}}]}},
            "histogram_bucket_settings": [
                {"match": {"suffix": suffix}, "buckets": BUCKETS_MS}
                for suffix in ("_time", "_rq_time", "length_ms")
            ],
        },
    }


def _runtime() -> Json:
    return {
        "overload.premature_reset_total_stream_count": MOST_RESETS,
        "overload.premature_reset_min_stream_lifetime_seconds": 1,
        "http.max_requests_per_io_cycle": CALLS_PER_TURN,
    }


def secret_files(settings: EdgeSettings) -> dict[str, Json]:
    """Return the SDS files that belong into the folder, by name."""
    return {f"{name}.json": secret for name, secret in tls.secrets(settings).items()}
