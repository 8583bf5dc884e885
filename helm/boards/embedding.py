"""The embedding service's dashboard, Triton's and Ray Serve's panels among it."""

from __future__ import annotations

from grafana import Panel, Rows
from panels import cache, calls, heatmap, models, quantiles, rate, share, total

EMBEDDING = 'namespace="$namespace",job="$namespace/$release-embedding"'
TRITON = 'namespace="$namespace",job="$release-triton"'
REPLICA = 'Component="ray::ServeReplica:embedding:EmbeddingService"'


def triton() -> list[Panel]:
    def of(metric: str) -> str:
        return total("model", rate(metric, TRITON))

    answered = of("nv_inference_request_success")
    queued, computed = (
        of("nv_inference_queue_duration_us"),
        of("nv_inference_compute_infer_duration_us"),
    )
    return [
        Panel(
            "Batch size",
            "Images in a run of the encoder, on average, by model.",
            "short",
            {"{{model}}": share(of("nv_inference_count"), of("nv_inference_exec_count"))},
        ),
        Panel(
            "Queue age",
            "How long images waited in Triton's queue, on average, by model.",
            "µs",
            {"{{model}}": share(queued, answered)},
        ),
        Panel(
            "Time in the encoder",
            "How long the run took that an image was in, on average, by model.",
            "µs",
            {"{{model}}": share(computed, answered)},
        ),
        Panel(
            "Queue to compute",
            "Time in the queue over time in the encoder: what Triton's autoscaler aims at.",
            "none",
            {"{{model}}": share(queued, computed)},
        ),
        Panel(
            "Triton's failures",
            "Requests a second that Triton did not answer, by model and reason.",
            "reqps",
            {
                "{{model}} {{reason}}": total(
                    "model, reason", rate("nv_inference_request_failure", TRITON)
                )
            },
        ),
        Panel(
            "GPU",
            "How busy each GPU is; nothing where encoders run on CPUs.",
            "percentunit",
            {"{{pod}} {{gpu_uuid}}": f"nv_gpu_utilization{{{TRITON}}}"},
        ),
    ]


def embedding() -> Rows:
    embedded = rate("samserve_embedded_total", EMBEDDING)
    hits = rate("samserve_embedded_total", f'{EMBEDDING},cache="hit"')
    return {
        "Calls": [
            *calls(EMBEDDING),
            Panel(
                "Images",
                "Images a second: found (hit), embedded (miss), or embedded once for several who asked (coalesced).",
                "ops",
                {"{{model}} {{cache}}": total("model, cache", embedded)},
            ),
            Panel(
                "Hit ratio",
                "Share of images that were found in the cache, by model.",
                "percentunit",
                {"{{model}}": share(total("model", hits), total("model", embedded))},
            ),
        ],
        "Stages": [
            Panel(
                "Stages, p95",
                "queue: for a slot; turn: for who embeds the same image; decode: the file; encode: in Triton.",
                "s",
                quantiles("samserve_stage_seconds", EMBEDDING, "stage", 0.95),
            ),
            heatmap(
                "Encode",
                "How long Triton takes for an image, its queue included.",
                f'{EMBEDDING},stage="encode"',
            ),
            Panel(
                "Waiting for a slot",
                "Images that wait to be embedded, by priority; beyond SAMSERVE_EMBED_QUEUE a replica refuses.",
                "short",
                {"{{priority}}": total("priority", f"samserve_embed_waiting{{{EMBEDDING}}}")},
            ),
        ],
        "Triton": triton(),
        "Cache and models": [
            *cache(EMBEDDING),
            models(
                EMBEDDING, "What Triton has loaded, and on how many of Ray's pods replicas know it."
            ),
        ],
        "Ray Serve": [
            Panel(
                "Replicas",
                "Replicas that are healthy, and as many as Ray Serve's autoscaler wants.",
                "short",
                {
                    "healthy": f"sum(ray_serve_deployment_replica_healthy{{{EMBEDDING}}})",
                    "wanted": f"sum(ray_serve_autoscaling_target_replicas{{{EMBEDDING}}})",
                },
            ),
            Panel(
                "Requests in a replica",
                "Calls that each replica is answering; Ray Serve scales by them.",
                "short",
                {
                    "{{replica}}": total(
                        "replica", f"ray_serve_replica_processing_queries{{{EMBEDDING}}}"
                    )
                },
            ),
            Panel(
                "Processor",
                "How busy the replicas of each pod are; 100 is one core.",
                "percent",
                {"{{pod}}": total("pod", f"ray_component_cpu_percentage{{{EMBEDDING},{REPLICA}}}")},
            ),
            Panel(
                "Memory",
                "Resident memory of the replicas of each pod.",
                "bytes",
                {"{{pod}}": total("pod", f"ray_component_rss_bytes{{{EMBEDDING},{REPLICA}}}")},
            ),
        ],
    }
