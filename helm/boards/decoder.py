"""The decoder's dashboard."""

from __future__ import annotations

from grafana import Panel, Rows
from panels import cache, calls, heatmap, models, processes, quantiles, rate, share, total

DECODER = 'namespace="$namespace",job="$release-decoder"'


def decoder() -> Rows:
    lookups = rate("samserve_resident_lookups_total", DECODER)
    hits = rate("samserve_resident_lookups_total", f'{DECODER},outcome="hit"')
    return {
        "Calls": [
            *calls(DECODER),
            Panel(
                "Prompts decoded",
                "Prompts per second, by model. A call may contain several.",
                "ops",
                {"{{model}}": total("model", rate("samserve_decoded_total", DECODER))},
            ),
            Panel(
                "Waiting to be decoded",
                "Prompts in the queue, by pod. If they persist, add decoders.",
                "short",
                {"{{pod}}": f"samserve_decode_waiting{{{DECODER}}}"},
            ),
        ],
        "Stages": [
            Panel(
                "Stages, p95",
                "embedding: finding the image. decode: the prompts. masks: upscaling and encoding.",
                "s",
                quantiles("samserve_stage_seconds", DECODER, "stage", 0.95),
            ),
            heatmap(
                "Decode",
                "Time to decode the prompts of a call.",
                f'{DECODER},stage="decode"',
            ),
            heatmap(
                "Embedding",
                "Time that calls wait for the embedding.",
                f'{DECODER},stage="embedding"',
            ),
        ],
        "Images": [
            Panel(
                "Resident bytes",
                "Bytes of prepared images in each pod, at most SAMSERVE_RESIDENT_BYTES.",
                "bytes",
                {"{{pod}}": f"samserve_resident_bytes{{{DECODER}}}"},
            ),
            Panel(
                "Resident hits",
                "Share of calls whose pod had the image prepared.",
                "percentunit",
                {"{{pod}}": share(total("pod", hits), total("pod", lookups))},
            ),
            Panel(
                "Resident evictions",
                "Images evicted per second, by pod.",
                "ops",
                {"{{pod}}": rate("samserve_resident_evictions_total", DECODER)},
            ),
            *cache(DECODER),
            models(
                DECODER,
                "Accepted versions of embeddings, and the number of decoders that accept them.",
            ),
        ],
        "Processes": processes(DECODER, "decoders"),
    }
