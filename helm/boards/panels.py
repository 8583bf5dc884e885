"""What panels are made of, and those that both dashboards have.

Of labels they use those that the Prometheus operator gives to what the chart's monitors find: namespace, job, pod.
"""

from __future__ import annotations

from grafana import Panel


def rate(metric: str, labels: str) -> str:
    return f"rate({metric}{{{labels}}}[$__rate_interval])"


def total(by: str, series: str) -> str:
    return f"sum by ({by}) ({series})"


def share(part: str, whole: str) -> str:
    return f"{part} / {whole}"


def share_of_calls(some: str, every: str) -> str:
    """Of each RPC; 0 where there has never been one of them."""
    part, whole = total("method", some), total("method", every)
    return share(f"({part} or 0 * {whole})", whole)


def quantiles(metric: str, labels: str, by: str, *levels: float) -> dict[str, str]:
    buckets = total(f"{by}, le", rate(f"{metric}_bucket", labels))
    return {
        f"p{round(100 * level)} {{{{{by}}}}}": f"histogram_quantile({level}, {buckets})"
        for level in levels
    }


def heatmap(title: str, description: str, labels: str) -> Panel:
    buckets = total("le", rate("samserve_stage_seconds_bucket", labels))
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
            "Calls a second, by RPC and gRPC code; a stream counts once, when it ends.",
            "reqps",
            {"{{method}} {{code}}": total("method, code", answered)},
        ),
        Panel(
            "Failed and refused",
            "Share of calls that failed for reasons of ours, and of those sent away because too many waited.",
            "percentunit",
            {
                "{{method}} failed": share_of_calls(failed, answered),
                "{{method}} refused": share_of_calls(refused, answered),
            },
        ),
        Panel(
            "Time to answer",
            "From the call's begin to its end, by RPC; for streams how long they were open.",
            "s",
            quantiles("samserve_request_seconds", labels, "method", 0.5, 0.95, 0.99),
        ),
        Panel(
            "In progress",
            "Calls that are being answered, open streams among them: what the decoder's autoscaler can count.",
            "short",
            {"{{method}}": total("method", f"samserve_requests_in_progress{{{labels}}}")},
        ),
    ]


def cache(labels: str) -> list[Panel]:
    return [
        Panel(
            "Redis outcomes",
            "Operations a second by how they ended; bypassed: the breaker is open and Redis is not asked.",
            "ops",
            {"{{outcome}}": total("outcome", rate("samserve_cache_outcomes_total", labels))},
        ),
        Panel(
            "Redis bytes",
            "Bytes of embeddings a second that were read from Redis and written to it.",
            "Bps",
            {"{{way}}": total("way", rate("samserve_cache_bytes_total", labels))},
        ),
    ]


def models(labels: str, description: str) -> Panel:
    told = f"count by (model, version, variant, backend) (samserve_model_info{{{labels}}} == 1)"
    return Panel("Model versions", description, "short", {"processes": told}, "table")
