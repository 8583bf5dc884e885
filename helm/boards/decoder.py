"""The decoder's dashboard."""

from __future__ import annotations

from grafana import Panel, Rows
from panels import cache, calls, heatmap, models, quantiles, rate, share, total

DECODER = 'namespace="$namespace",job="$release-decoder"'


def decoder() -> Rows:
    lookups = rate("samserve_resident_lookups_total", DECODER)
    hits = rate("samserve_resident_lookups_total", f'{DECODER},outcome="hit"')
    return {
        "Calls": [
            *calls(DECODER),
            Panel(
                "Prompts decoded",
                "Prompts a second, by model; a call may bring several.",
                "ops",
                {"{{model}}": total("model", rate("samserve_decoded_total", DECODER))},
            ),
            Panel(
                "Waiting to be decoded",
                "Prompts that wait for a core, by pod; when they last, decoders are too few.",
                "short",
                {"{{pod}}": f"samserve_decode_waiting{{{DECODER}}}"},
            ),
        ],
        "Stages": [
            Panel(
                "Stages, p95",
                "embedding: until the image is at hand; decode: the prompts; masks: their upscaling and encoding.",
                "s",
                quantiles("samserve_stage_seconds", DECODER, "stage", 0.95),
            ),
            heatmap(
                "Decode",
                "How long it takes to decode a call's prompts.",
                f'{DECODER},stage="decode"',
            ),
            heatmap(
                "Embedding",
                "How long calls wait for their image's embedding.",
                f'{DECODER},stage="embedding"',
            ),
        ],
        "Images": [
            Panel(
                "Resident bytes",
                "Bytes of images that each pod keeps ready; at most SAMSERVE_RESIDENT_BYTES.",
                "bytes",
                {"{{pod}}": f"samserve_resident_bytes{{{DECODER}}}"},
            ),
            Panel(
                "Resident hits",
                "Share of calls whose image was ready in the pod that they came to.",
                "percentunit",
                {"{{pod}}": share(total("pod", hits), total("pod", lookups))},
            ),
            Panel(
                "Resident evictions",
                "Images a second that made room for others, by pod.",
                "ops",
                {"{{pod}}": rate("samserve_resident_evictions_total", DECODER)},
            ),
            *cache(DECODER),
            models(
                DECODER, "Versions whose embeddings are taken, and how many decoders take them."
            ),
        ],
        "Processes": [
            Panel(
                "Processor",
                "Cores used by each pod's process.",
                "short",
                {"{{pod}}": rate("process_cpu_seconds_total", DECODER)},
            ),
            Panel(
                "Memory",
                "Resident memory of each pod's process.",
                "bytes",
                {"{{pod}}": f"process_resident_memory_bytes{{{DECODER}}}"},
            ),
            Panel(
                "Pods with metrics",
                "Decoders that Prometheus reaches.",
                "short",
                {"pods": f"sum(up{{{DECODER}}})"},
            ),
        ],
    }
