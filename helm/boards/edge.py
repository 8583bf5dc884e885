"""The edge's dashboard, of Envoy's own metrics."""

from __future__ import annotations

from grafana import Panel, Rows
from panels import rate, share, total

EDGE = 'namespace="$namespace",job="$namespace/$release-edge"'
PUBLIC = f'{EDGE},envoy_http_conn_manager_prefix="edge"'
SERVICE = "envoy_cluster_name"


def milliseconds(metric: str, labels: str, by: str = "") -> dict[str, str]:
    """Quantiles of one of Envoy's histograms."""
    buckets = total(f"{by}, le" if by else "le", rate(f"{metric}_bucket", labels))
    legend = f" {{{{{by}}}}}" if by else ""
    return {
        f"p{round(100 * level)}{legend}": f"histogram_quantile({level}, {buckets})"
        for level in (0.5, 0.95)
    }


def each_service(metric: str) -> dict[str, str]:
    return {f"{{{{{SERVICE}}}}}": total(SERVICE, rate(metric, EDGE))}


def edge() -> Rows:
    failed = rate("envoy_cluster_upstream_rq_xx", f'{EDGE},envoy_response_code_class="5"')
    return {
        "Calls": [
            Panel(
                "Answers",
                "Answers per second, by class of status. Failures of gRPC have a status of 200.",
                "reqps",
                {
                    "{{envoy_response_code_class}}xx": total(
                        "envoy_response_code_class", rate("envoy_http_downstream_rq_xx", PUBLIC)
                    )
                },
            ),
            Panel(
                "Calls by service",
                "Attempts per second, by the service that gets them.",
                "reqps",
                each_service("envoy_cluster_upstream_rq_total"),
            ),
            Panel(
                "Failed",
                "Share of attempts that a service failed with a 5xx, or did not answer.",
                "percentunit",
                {
                    f"{{{{{SERVICE}}}}}": share(
                        total(SERVICE, failed),
                        total(SERVICE, rate("envoy_cluster_upstream_rq_total", EDGE)),
                    )
                },
            ),
            Panel(
                "Time to answer",
                "From the first byte of a call to the end of its answer; streams too.",
                "ms",
                milliseconds("envoy_http_downstream_rq_time", PUBLIC),
            ),
            Panel(
                "Time in services",
                "Time of an attempt in the service that got it.",
                "ms",
                milliseconds("envoy_cluster_upstream_rq_time", EDGE, SERVICE),
            ),
            Panel(
                "In progress",
                "Calls and open streams, by pod.",
                "short",
                {"{{pod}}": f"envoy_http_downstream_rq_active{{{PUBLIC}}}"},
            ),
        ],
        "Services": [
            Panel(
                "Healthy hosts",
                "Hosts of a service that get calls, as the pod with fewest sees them.",
                "short",
                {
                    f"{{{{{SERVICE}}}}}": f"min by ({SERVICE}) "
                    f"(envoy_cluster_membership_healthy{{{EDGE}}})"
                },
            ),
            Panel(
                "Left out",
                "Hosts that were unreachable or silent three times in a row.",
                "short",
                {
                    f"{{{{{SERVICE}}}}}": f"max by ({SERVICE}) "
                    f"(envoy_cluster_outlier_detection_ejections_active{{{EDGE}}})"
                },
            ),
            Panel(
                "Further attempts",
                "Attempts per second beyond each call's first, hedged clicks among them.",
                "reqps",
                each_service("envoy_cluster_upstream_rq_retry"),
            ),
            Panel(
                "Late clicks",
                "Clicks per second that took longer than SAMSERVE_EDGE_HEDGE_S.",
                "reqps",
                each_service("envoy_cluster_upstream_rq_per_try_timeout"),
            ),
            Panel(
                "Refused for want of room",
                "Calls per second beyond what a service may have in progress or waiting.",
                "reqps",
                each_service("envoy_cluster_upstream_rq_pending_overflow"),
            ),
            Panel(
                "Failed health checks",
                "Health checks per second that failed; a draining decoder fails them, too.",
                "reqps",
                each_service("envoy_cluster_health_check_failure"),
            ),
        ],
        "Strangers": [
            Panel(
                "Connections",
                "Open connections of callers, by pod. SAMSERVE_EDGE_CONNECTIONS is the limit.",
                "short",
                {"{{pod}}": f"envoy_http_downstream_cx_active{{{PUBLIC}}}"},
            ),
            Panel(
                "Refused connections",
                "Connections per second beyond the limit, by pod.",
                "cps",
                {
                    "{{pod}}": total(
                        "pod", rate("envoy_listener_downstream_global_cx_overflow", EDGE)
                    )
                },
            ),
            Panel(
                "Ended for what they sent",
                "Connections and calls per second: malformed, slow heads, resets.",
                "reqps",
                {
                    "malformed": f"sum({rate('envoy_http_downstream_cx_protocol_error', PUBLIC)})",
                    "slow head": f"sum({rate('envoy_http_downstream_rq_header_timeout', PUBLIC)})",
                    "resets": "sum("
                    + rate("envoy_http_downstream_rq_too_many_premature_resets", PUBLIC)
                    + ")",
                },
            ),
        ],
        "Processes": [
            Panel(
                "Memory",
                "Heap that Envoy uses, by pod. SAMSERVE_EDGE_HEAP_BYTES is the limit.",
                "bytes",
                {"{{pod}}": f"envoy_server_memory_allocated{{{EDGE}}}"},
            ),
            Panel(
                "Certificate",
                "Days until the first certificate expires.",
                "d",
                {"days": f"min(envoy_server_days_until_first_cert_expiring{{{EDGE}}})"},
            ),
            Panel(
                "Pods with metrics",
                "Number of edges that Prometheus reaches.",
                "short",
                {"pods": f"sum(up{{{EDGE}}})"},
            ),
        ],
    }
