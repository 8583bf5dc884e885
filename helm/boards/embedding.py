"""The embedding service's dashboard, including Triton and Ray Serve."""

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
            "Mean number of images per encoder run, by model.",
            "short",
            {"{{model}}": share(of("nv_inference_count"), of("nv_inference_exec_count"))},
        ),
        Panel(
            "Queue age",
            "Mean wait of images in Triton's queue, by model.",
            "µs",
            {"{{model}}": share(queued, answered)},
        ),
        Panel(
            "Time in the encoder",
            "Mean time of an image's encoder run, by model.",
            "µs",
            {"{{model}}": share(computed, answered)},
        ),
        Panel(
            "Queue to compute",
            "Time in the queue over time in the encoder. Triton's autoscaler targets this ratio.",
            "none",
            {"{{model}}": share(queued, computed)},
        ),
        Panel(
            "Triton's failures",
            "Failed Triton requests per second, by model and reason.",
            "reqps",
            {
                "{{model}} {{reason}}": total(
                    "model, reason", rate("nv_inference_request_failure", TRITON)
                )
            },
        ),
        Panel(
            "GPU",
            "Utilization of each GPU. Empty if encoders run on CPUs.",
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
                "Images per second: hit, miss (embedded), coalesced (shared an encode).",
                "ops",
                {"{{model}} {{cache}}": total("model, cache", embedded)},
            ),
            Panel(
                "Hit ratio",
                "Share of images found in the cache, by model.",
                "percentunit",
                {"{{model}}": share(total("model", hits), total("model", embedded))},
            ),
        ],
        "Stages": [
            Panel(
                "Stages, p95",
                "queue: a slot. turn: another encode. decode: the file. encode: in Triton.",
                "s",
                quantiles("samserve_stage_seconds", EMBEDDING, "stage", 0.95),
            ),
            heatmap(
                "Encode",
                "Time that Triton takes for an image, including its queue.",
                f'{EMBEDDING},stage="encode"',
            ),
            Panel(
                "Waiting for a slot",
                "Images in the queue, by priority. SAMSERVE_EMBED_QUEUE is the limit per replica.",
                "short",
                {"{{priority}}": total("priority", f"samserve_embed_waiting{{{EMBEDDING}}}")},
            ),
        ],
        "Triton": triton(),
        "Cache and models": [
            *cache(EMBEDDING),
            models(
                EMBEDDING,
                "Versions that Triton has loaded, and the number of Ray pods that serve them.",
            ),
        ],
        "Ray Serve": [
            Panel(
                "Replicas",
                "Healthy replicas, and the number that Ray Serve's autoscaler wants.",
                "short",
                {
                    "healthy": f"sum(ray_serve_deployment_replica_healthy{{{EMBEDDING}}})",
                    "wanted": f"sum(ray_serve_autoscaling_target_replicas{{{EMBEDDING}}})",
                },
            ),
            Panel(
                "Requests in a replica",
                "Calls in progress per replica. Ray Serve scales by them.",
                "short",
                {
                    "{{replica}}": total(
                        "replica", f"ray_serve_replica_processing_queries{{{EMBEDDING}}}"
                    )
                },
            ),
            Panel(
                "Processor",
                "CPU use of the replicas of each pod. 100 is one core.",
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
