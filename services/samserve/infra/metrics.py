"""The catalogue of Prometheus metrics. Their names are a contract: dashboards, alerts and autoscalers use them."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

CACHE_OUTCOMES = Counter(
    "samserve_cache_outcomes_total", "Embedding cache operations by outcome.", ["outcome"]
)
CACHE_BYTES = Counter(
    "samserve_cache_bytes_total",
    "Bytes of embeddings read from the cache and written to it.",
    ["way"],
)
EMBEDDED = Counter(
    "samserve_embedded_total",
    "Images answered by the embedding service: hit, miss, coalesced.",
    ["model", "cache"],
)
MODEL_INFO = Gauge(
    "samserve_model_info",
    "1 for what this process answers with, 0 for what it no longer does. Of the embedding service: what Triton has "
    "loaded, by which variant and backend; of a decoder: every version whose embeddings it takes.",
    ["model", "version", "variant", "backend"],
    multiprocess_mode="livemax",
)
DECODED = Counter("samserve_decoded_total", "Prompts answered by the decoder.", ["model"])
RESIDENT_BYTES = Gauge("samserve_resident_bytes", "Bytes of images kept ready in this process.")
RESIDENT_LOOKUPS = Counter(
    "samserve_resident_lookups_total", "Images looked for in this process.", ["outcome"]
)
RESIDENT_EVICTIONS = Counter(
    "samserve_resident_evictions_total", "Images that made room for others in this process."
)
REQUESTS = Counter(
    "samserve_requests_total", "Answered RPCs by method and gRPC code.", ["method", "code"]
)
REQUESTS_NOW = Gauge(
    "samserve_requests_in_progress",
    "RPCs that are being answered.",
    ["method"],
    multiprocess_mode="livesum",
)
WAITING = Gauge(
    "samserve_embed_waiting",
    "Images that wait for a slot to be embedded.",
    ["priority"],
    multiprocess_mode="livesum",
)
DECODE_WAITING = Gauge("samserve_decode_waiting", "Prompts that wait for a thread to be decoded.")
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
