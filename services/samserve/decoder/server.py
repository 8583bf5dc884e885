"""Runs the decoder service: `python -m samserve.decoder.server`."""

from __future__ import annotations

import asyncio
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc.aio
import numpy as np
import structlog
from grpc_health.v1 import health as health_names
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server
from threadpoolctl import threadpool_limits

from samserve.bundles.store import Store, UnknownModel
from samserve.bundles.variant import BrokenBundle
from samserve.core.embedding import Embedding
from samserve.core.geometry import Size
from samserve.decoder.admission import DecodeQueue
from samserve.decoder.delayed_status import DelayedStatus
from samserve.decoder.image_lru import ImageLru
from samserve.decoder.image_source import ImageSource, RemoteEmbedder
from samserve.decoder.prompt import Prompt
from samserve.decoder.registry import ModelRegistry
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.prepared_image import ReadyImage
from samserve.decoder.sam.threads import Threads
from samserve.decoder.segmenter import Segmenter
from samserve.decoder.servicer import SegmentationServicer, TimeLimits
from samserve.infra import tracing
from samserve.infra.cache import CacheOptions, EmbeddingCache
from samserve.infra.logs import set_up_logs
from samserve.infra.settings import DecoderSettings, load_settings
from samserve.v1 import segmentation_pb2, segmentation_pb2_grpc
from samserve.wire.metadata import message_limits

SERVICE = segmentation_pb2.DESCRIPTOR.services_by_name["SegmentationService"].full_name

log = structlog.get_logger()


async def serve(settings: DecoderSettings) -> None:
    """Serve until SIGTERM or SIGINT; then finish what has begun."""
    threadpool_limits(1, "blas")  # the cores are the decoder's to share out
    threads = Threads(settings.decode_threads)
    decoders = [
        MaskDecoder(bundle, threads) for bundle in Store(settings.bundles).load_all(settings.models)
    ]
    models = ModelRegistry(decoders)
    models.tell()
    pool = ThreadPoolExecutor(settings.decode_threads, "decode")
    cache = EmbeddingCache(
        CacheOptions(settings.redis_url, settings.cache_ttl_s, settings.redis_timeout_s)
    )
    embedder = RemoteEmbedder(
        settings.embedding_url, settings.embed_timeout_s, settings.max_image_bytes
    )

    async def prepare(embedding: Embedding) -> ReadyImage:
        decoder = models.of_version(embedding.model_version)
        return await asyncio.get_running_loop().run_in_executor(pool, decoder.prepare, embedding)

    admission = DecodeQueue(settings.decode_threads, settings.decode_queue)
    embeddings = ImageSource(ImageLru(settings.resident_bytes), cache, embedder, prepare, admission)
    segmenter = Segmenter(embeddings, models, pool, admission)

    draining = asyncio.Event()
    server = grpc.aio.server(
        interceptors=[DelayedStatus(draining)], options=server_options(settings)
    )
    servicer = SegmentationServicer(
        segmenter, draining, TimeLimits(settings.slow_s, settings.max_stream_s)
    )
    segmentation_pb2_grpc.add_SegmentationServiceServicer_to_server(servicer, server)
    checks = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection(
        [SERVICE, health_names.SERVICE_NAME, reflection.SERVICE_NAME], server
    )
    port = server.add_insecure_port(f"{settings.host}:{settings.decoder_port}")
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.host)
    await asyncio.gather(
        *(asyncio.to_thread(warm_up, decoder) for decoder in decoders), cache.check()
    )
    await server.start()
    await _announce(checks, health_pb2.HealthCheckResponse.SERVING)
    log.info("ready", port=port, models=[decoder.bundle.model_version for decoder in decoders])

    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await stopping.wait()
    await _announce(checks, health_pb2.HealthCheckResponse.NOT_SERVING)
    draining.set()  # else an idle stream would hold the stop for all of its grace
    await server.stop(settings.drain_s)
    await asyncio.gather(embedder.close(), cache.close())
    pool.shutdown()
    log.info("drained")


def server_options(settings: DecoderSettings) -> list[tuple[str, int]]:
    """The gRPC server's. A connection that has reached its age takes no new calls, so that its client looks up the
    name again and finds new pods; what has begun on it, a stream or a call that embeds, has time to end by itself.
    """
    grace = settings.max_stream_s + settings.embed_timeout_s
    return [
        *message_limits(settings.max_image_bytes),
        ("grpc.so_reuseport", 0),
        ("grpc.max_connection_age_ms", round(1000 * settings.max_connection_age_s)),
        ("grpc.max_connection_age_grace_ms", round(1000 * grace)),
    ]


def warm_up(decoder: MaskDecoder) -> None:
    """Decode once, so that the first caller does not wait for buffers to be laid out."""
    shapes = decoder.bundle.embedding
    blank = {name: np.zeros(shape, np.float16) for name, shape in shapes.items()}
    side = decoder.bundle.frame.side
    click = Prompt(np.zeros((1, 2), np.float32), np.ones(1, np.float32), None, None, multimask=True)
    decoder.decode(
        decoder.prepare(Embedding(decoder.bundle.model_version, Size(side, side), blank)), [click]
    )


async def _announce(checks: health.HealthServicer, status: int) -> None:
    for name in ("", SERVICE):
        await checks.set(name, status)


def main() -> None:
    settings = load_settings(DecoderSettings)
    set_up_logs("decoder", settings.log_level)
    tracing.set_up("decoder", settings.otlp_endpoint)
    try:
        asyncio.run(serve(settings))
    except (BrokenBundle, UnknownModel) as problem:
        sys.exit(f"the decoder cannot start: {problem}")


if __name__ == "__main__":
    main()
