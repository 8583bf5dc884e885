"""What the edge does when memory or connections run out: first shorten waits, then refuse."""

from __future__ import annotations

from samserve.edge.values import Json, extension, typed
from samserve.infra.settings import EdgeSettings

HEAP = "envoy.resource_monitors.fixed_heap"
CONNECTIONS = "envoy.resource_monitors.global_downstream_max_connections"
MONITORS = "envoy.extensions.resource_monitors"

# Shares of the memory limit. A trigger at one value acts wholly from there on; one with two acts
# the more the closer the second.
CLOSE_IDLE, REFUSE_CALLS, REFUSE_CONNECTIONS = 0.85, 0.95, 0.97


def overload_manager(settings: EdgeSettings, connections: int) -> Json:
    """Return the configuration of the overload manager.

    Args:
        settings: The edge's.
        connections: Limit of connections of callers.
    """
    heap = extension(
        HEAP,
        f"{MONITORS}.fixed_heap.v3.FixedHeapConfig",
        max_heap_size_bytes=settings.edge_heap_bytes,
    )
    count = extension(
        CONNECTIONS,
        f"{MONITORS}.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=connections,
    )
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [heap, count],
        "actions": [
            _shorter_timeouts(),
            _action("shrink_heap", CLOSE_IDLE),
            _action("disable_http_keepalive", CLOSE_IDLE),
            _action("stop_accepting_requests", REFUSE_CALLS),
            _action("stop_accepting_connections", REFUSE_CONNECTIONS),
            {
                "name": "envoy.overload_actions.reset_high_memory_stream",
                "triggers": [_scaled(CLOSE_IDLE, REFUSE_CALLS)],
            },
        ],
        "buffer_factory_config": {"minimum_account_to_track_power_of_two": 20},
    }


def _shorter_timeouts() -> Json:
    timers = [
        {"timer": timer, "min_timeout": least}
        for timer, least in (
            ("HTTP_DOWNSTREAM_CONNECTION_IDLE", "2s"),
            ("HTTP_DOWNSTREAM_STREAM_IDLE", "30s"),
            ("TRANSPORT_SOCKET_CONNECT", "2s"),
        )
    ]
    return {
        "name": "envoy.overload_actions.reduce_timeouts",
        "triggers": [_scaled(0.6, CLOSE_IDLE)],
        "typed_config": typed(
            "envoy.config.overload.v3.ScaleTimersOverloadActionConfig",
            timer_scale_factors=timers,
        ),
    }


def _action(name: str, share: float) -> Json:
    trigger = {"name": HEAP, "threshold": {"value": share}}
    return {"name": f"envoy.overload_actions.{name}", "triggers": [trigger]}


def _scaled(begins: float, full: float) -> Json:
    return {
        "name": HEAP,
        "scaled": {"scaling_threshold": begins, "saturation_threshold": full},
    }
