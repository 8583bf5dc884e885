"""Building blocks of panels, and the panels that dashboards share.

They use the labels that the Prometheus operator sets for the chart's monitors: namespace, job, pod.
"""

from __future__ import annotations

from grafana import Panel


def rate(metric: str, labels: str) -> str:
    return f"rate({metric}{{{labels}}}[$__rate_interval])"


def total(by: str, series: str) -> str:
    return f"sum by ({by}) ({series})"


def share(part: str, whole: str) -> str:
    return f"{part} / {whole}"


def share_of_calls(some: str, every: str, by: str = "method") -> str:
    """Return one share per RPC or route; 0 for those of which `some` has no sample."""
    part, whole = total(by, some), total(by, every)
    return share(f"({part} or 0 * {whole})", whole)


def quantiles(metric: str, labels: str, by: str, *levels: float) -> dict[str, str]:
    buckets = total(f"{by}, le", rate(f"{metric}_bucket", labels))
    return {
        f"p{round(100 * level)} {{{{{by}}}}}": f"histogram_quantile({level}, {buckets})"
        for level in levels
    }


def heatmap(
    title: str, description: str, labels: str, metric: str = "samserve_stage_seconds"
) -> Panel:
    buckets = total("le", rate(f"{metric}_bucket", labels))
    return Panel(title, description, "s", {"{{le}}": buckets}, "heatmap")


def calls(labels: str) -> list[Panel]:
    """Rate, errors and duration of each RPC."""
    answered = rate("samserve_requests_total", labels)
    failed = rate(
        "samserve_requests_total",
        f'{labels},code=~"INTERNAL|UNKNOWN|UNAVAILABLE|DEADLINE_EXCEEDED"',
    )
    refused = rate("samserve_requests_total", f'{labels},code="RESOURCE_EXHAUSTED"')
    return [
        Panel(
            "Calls answered",
            "Calls per second, by RPC and gRPC code. A stream counts once, when it ends.",
            "reqps",
            {"{{method}} {{code}}": total("method, code", answered)},
        ),
        Panel(
            "Failed and refused",
            "Share of calls that failed in the service, or were refused by a full queue.",
            "percentunit",
            {
                "{{method}} failed": share_of_calls(failed, answered),
                "{{method}} refused": share_of_calls(refused, answered),
            },
        ),
        Panel(
            "Time to answer",
            "Time from start to end of a call, by RPC. For streams, the time they were open.",
            "s",
            quantiles("samserve_request_seconds", labels, "method", 0.5, 0.95, 0.99),
        ),
        Panel(
            "In progress",
            "Calls in progress, including open streams. The decoder's autoscaler can use them.",
            "short",
            {"{{method}}": total("method", f"samserve_requests_in_progress{{{labels}}}")},
        ),
    ]


def cache(labels: str) -> list[Panel]:
    return [
        Panel(
            "Redis outcomes",
            "Operations per second, by outcome. bypassed: the circuit breaker is open.",
            "ops",
            {"{{outcome}}": total("outcome", rate("samserve_cache_outcomes_total", labels))},
        ),
        Panel(
            "Redis bytes",
            "Bytes of embeddings per second, read from Redis and written to it.",
            "Bps",
            {"{{way}}": total("way", rate("samserve_cache_bytes_total", labels))},
        ),
    ]


def models(labels: str, description: str) -> Panel:
    told = f"count by (model, version, variant, backend) (samserve_model_info{{{labels}}} == 1)"
    return Panel("Model versions", description, "short", {"processes": told}, "table")


def processes(labels: str, kind: str) -> list[Panel]:
    """Cores, memory and number of the pods of a part."""
    return [
        Panel(
            "Processor",
            "CPU cores used by each pod.",
            "short",
            {"{{pod}}": rate("process_cpu_seconds_total", labels)},
        ),
        Panel(
            "Memory",
            "Resident memory of each pod.",
            "bytes",
            {"{{pod}}": f"process_resident_memory_bytes{{{labels}}}"},
        ),
        Panel(
            "Pods with metrics",
            f"Number of {kind} that Prometheus reaches.",
            "short",
            {"pods": f"sum(up{{{labels}}})"},
        ),
    ]
