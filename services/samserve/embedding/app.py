"""The embedding service as a Ray Serve application: builds its parts from the settings."""

from __future__ import annotations

import asyncio
import ctypes
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray import serve

from samserve.bundles.names import model_name
from samserve.core.embedding import SizeLimits
from samserve.embedding.admission import EncodeSlots
from samserve.embedding.claims import ReplicaClaims
from samserve.embedding.concept_finder import ConceptFinder
from samserve.embedding.concept_head import TritonHead
from samserve.embedding.embedder import Embedder
from samserve.embedding.encoder import TritonEncoder
from samserve.embedding.image_workers import ImageWorkers, WorkerOptions
from samserve.embedding.servicer import EmbeddingServicer
from samserve.infra import tracing
from samserve.infra.addresses import bare_host
from samserve.infra.cache import EmbeddingCache
from samserve.infra.logs import set_up_logs
from samserve.infra.metrics_port import share_metrics
from samserve.infra.settings import EmbeddingSettings, load_settings
from samserve.wire.callers import Callers

GRPC_SERVICERS = ["samserve.embedding.registration.add_embedding_service"]

HEALTH_PERIOD_S = 1.0  # a dead replica is replaced after the next check; Ray's default is 10 s

M_MMAP_THRESHOLD = -3  # mallopt's number of this parameter
MMAP_THRESHOLD = 2**18  # bytes


class EmbeddingService(EmbeddingServicer):
    """One replica, built by Ray Serve in a process of its own."""

    def __init__(self, settings: EmbeddingSettings) -> None:
        set_up_logs("embedding", settings.log_level)
        tracing.set_up("embedding", settings.otlp_endpoint)
        if settings.metrics_port:
            share_metrics(settings.metrics_port, bare_host(settings.host))
        _return_memory_of_images()

        cache = EmbeddingCache(settings.cache_options)
        limits = settings.image_limits
        pool = ThreadPoolExecutor(settings.image_threads, "image")
        workers = ImageWorkers(
            settings.image_workers,
            WorkerOptions(limits, settings.image_decode_s, settings.image_range),
            pool,
        )
        encoder = TritonEncoder(
            settings.triton_url, settings.encode_timeout_s, model_name(settings.models[0])
        )
        claims = ReplicaClaims(cache, patience=settings.encode_timeout_s)
        embedder = Embedder(
            cache,
            claims,
            EncodeSlots(settings.embed_slots, settings.embed_queue),
            encoder,
            workers,
            limits=limits,
            pool=pool,
            coding=settings.cache_coding,
            quotas=cache.quotas,
        )
        finder = ConceptFinder(
            cache,
            claims,
            EncodeSlots(settings.concept_slots, settings.embed_queue),
            embedder,
            TritonHead(encoder),
            pool=pool,
            limits=SizeLimits(limits.max_pixels, limits.max_aspect),
        )
        super().__init__(
            embedder,
            finder,
            limits=settings.bulk_limits,
            slow=settings.slow_s,
            callers=Callers.of(settings),
            quotas=cache.quotas,
        )

        # Keep a reference so that the task is not garbage-collected.
        self._cache_check = asyncio.ensure_future(cache.check())


def _return_memory_of_images() -> None:
    """Return freed images to the system; by default glibc raises the threshold and keeps them."""
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)


def build(settings: EmbeddingSettings) -> Any:
    """Return the Ray Serve application for these settings."""
    deployment = serve.deployment(
        EmbeddingService,
        name="EmbeddingService",
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": settings.replica_cpus},
        max_ongoing_requests=4 * (settings.embed_slots + settings.embed_queue),  # hits need no slot
        max_queued_requests=settings.embed_queue,
        health_check_period_s=HEALTH_PERIOD_S,
        logging_config={"logs_dir": settings.ray_logs or None},
    )
    return deployment.bind(settings)


def app(_: dict[str, str]) -> Any:
    """Return the application for the environment's settings; a Serve config file imports this."""
    return build(load_settings(EmbeddingSettings))
