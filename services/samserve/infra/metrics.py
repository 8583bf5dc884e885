"""The catalogue of Prometheus metrics. Dashboards, alerts and autoscalers rely on their names."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

# The cache of embeddings.
CACHE_OUTCOMES = Counter(
    "samserve_cache_outcomes_total", "Embedding cache operations by outcome.", ["outcome"]
)
CACHE_BYTES = Counter(
    "samserve_cache_bytes_total",
    "Bytes of embeddings read from the cache and written to it.",
    ["way"],
)

# Models and images.
EMBEDDED = Counter(
    "samserve_embedded_total",
    "Images answered by the embedding service: hit, miss, coalesced.",
    ["model", "cache"],
)
CONCEPTS = Counter(
    "samserve_concepts_total",
    "Concepts answered by the decoder: hit, miss, coalesced.",
    ["model", "cache"],
)
DECODED = Counter("samserve_decoded_total", "Prompts answered by the decoder.", ["model"])
MODEL_INFO = Gauge(
    "samserve_model_info",
    "1 for a model version that this process serves, 0 for one that it no longer serves. "
    "Embedding service: the version, variant and backend that Triton has loaded. "
    "Decoder: every version whose embeddings it accepts.",
    ["model", "version", "variant", "backend"],
    multiprocess_mode="livemax",
)

IMAGE_WORKERS_ENDED = Counter(
    "samserve_image_workers_ended_total",
    "Processes that decode images, ended and replaced: time (an image's limit), abandoned (its "
    "callers left), crash, killed (by the system).",
    ["reason"],
)

# Prepared images in a decoder's process.
RESIDENT_BYTES = Gauge("samserve_resident_bytes", "Bytes of prepared images in this process.")
RESIDENT_LOOKUPS = Counter(
    "samserve_resident_lookups_total",
    "Lookups of prepared images in this process.",
    ["outcome"],
)
RESIDENT_EVICTIONS = Counter(
    "samserve_resident_evictions_total", "Prepared images evicted from this process."
)

# Calls and queues.
REQUESTS = Counter(
    "samserve_requests_total", "Answered RPCs by method and gRPC code.", ["method", "code"]
)
REQUESTS_NOW = Gauge(
    "samserve_requests_in_progress",
    "RPCs in progress.",
    ["method"],
    multiprocess_mode="livesum",
)
WAITING = Gauge(
    "samserve_embed_waiting",
    "Images that wait for a slot to be embedded.",
    ["priority"],
    multiprocess_mode="livesum",
)
DECODE_WAITING = Gauge("samserve_decode_waiting", "Prompts that wait for a decode thread.")
TRANSFERS_ENDED = Counter(
    "samserve_transfers_ended_total",
    "Messages to and from the decoder that were ended before they were whole: time, memory.",
    ["reason"],
)

# Times.
REQUEST_SECONDS = Histogram(
    "samserve_request_seconds",
    "Time to answer an RPC.",
    ["method"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)
STAGE_SECONDS = Histogram(
    "samserve_stage_seconds",
    "Time spent in one stage of a request.",
    ["stage"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)

# Quotas of tenants.
QUOTAS_SPENT = Counter(
    "samserve_quotas_spent_total",
    "Work refused because a tenant's quota was spent: requests, encodes, pixels, cached_bytes.",
    ["quota"],
)

# The authoriser.
AUTHORISED = Counter(
    "samserve_authorised_total",
    "Calls that the authoriser judged: ok, unauthenticated, permission_denied, unavailable.",
    ["outcome"],
)

# Requests of the HTTP gateway.
HTTP_REQUESTS = Counter(
    "samserve_http_requests_total",
    "Answered HTTP requests by route and status; 499 if the caller left first.",
    ["route", "status"],
)
HTTP_REQUESTS_NOW = Gauge("samserve_http_requests_in_progress", "HTTP requests in progress.")
HTTP_REQUEST_SECONDS = Histogram(
    "samserve_http_request_seconds",
    "Time to answer an HTTP request.",
    ["route"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)
