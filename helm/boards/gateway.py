"""The gateway's dashboard."""

from __future__ import annotations

from grafana import Panel, Rows
from panels import heatmap, processes, quantiles, rate, share_of_calls, total

GATEWAY = 'namespace="$namespace",job="$namespace/$release-gateway"'
ROUTES = f'{GATEWAY},route!~"/(healthz|readyz)"'  # without the probes of Kubernetes
REQUESTS = "samserve_http_requests_total"
SECONDS = "samserve_http_request_seconds"
IN_PROGRESS = "samserve_http_requests_in_progress"


def requests() -> list[Panel]:
    """Rate and errors of each route."""

    def share(statuses: str) -> str:
        some = rate(REQUESTS, f'{ROUTES},status=~"{statuses}"')
        return share_of_calls(some, rate(REQUESTS, ROUTES), by="route")

    return [
        Panel(
            "Requests answered",
            "Requests per second, by route. The route unknown is a path that the gateway lacks.",
            "reqps",
            {"{{route}}": total("route", rate(REQUESTS, ROUTES))},
        ),
        Panel(
            "Failed and refused",
            "Share of requests that failed (5xx but 501), or were refused as overload (429).",
            "percentunit",
            {"{{route}} failed": share("50[02-9]"), "{{route}} refused": share("429")},
        ),
        Panel(
            "Rejected",
            "Share of requests that are invalid, by route. 404 may ask for the image's bytes.",
            "percentunit",
            {"{{route}} 404": share("404"), "{{route}} other": share("4(0[0-35-9]|1.|22)")},
        ),
        Panel(
            "Statuses",
            "Requests per second, by HTTP status. 499: the caller left before the answer.",
            "reqps",
            {"{{status}}": total("status", rate(REQUESTS, ROUTES))},
        ),
        Panel(
            "Callers that left",
            "Share of requests whose caller left before the answer, by route.",
            "percentunit",
            {"{{route}}": share("499")},
        ),
        Panel(
            "Requests by pod",
            "Requests per second, by pod. They differ if callers keep few connections.",
            "reqps",
            {"{{pod}}": total("pod", rate(REQUESTS, ROUTES))},
        ),
    ]


def gateway() -> Rows:
    return {
        "Requests": requests(),
        "Times": [
            Panel(
                "Time to answer, p95",
                "From the first byte of a request to the end of its answer, by route.",
                "s",
                quantiles(SECONDS, ROUTES, "route", 0.95),
            ),
            Panel(
                "Time to answer, p50",
                "The same for half of the requests. Uploads take as long as their callers do.",
                "s",
                quantiles(SECONDS, ROUTES, "route", 0.5),
            ),
            heatmap("Times", "Time to answer, all routes together.", ROUTES, SECONDS),
        ],
        "Saturation": [
            Panel(
                "In progress",
                "Requests in progress, by pod. SAMSERVE_MAX_REQUESTS is the limit.",
                "short",
                {"{{pod}}": f"{IN_PROGRESS}{{{GATEWAY}}}"},
            ),
            Panel(
                "In progress, mean of the pods",
                "The mean over five minutes, on which SamserveGatewaySaturated is based.",
                "short",
                {"mean": f"avg(avg_over_time({IN_PROGRESS}{{{GATEWAY}}}[5m]))"},
            ),
            Panel(
                "Open files",
                "Open files and connections of each pod. SAMSERVE_MAX_CONNECTIONS is the limit.",
                "short",
                {"{{pod}}": f"process_open_fds{{{GATEWAY}}}"},
            ),
        ],
        "Processes": processes(GATEWAY, "gateways"),
    }
