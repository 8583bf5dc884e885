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

from samserve.bundles.files import BrokenBundle
from samserve.bundles.store import Store, UnknownModel
from samserve.core.embedding import Embedding
from samserve.core.geometry import Size
from samserve.decoder.admission import DecodeQueue
from samserve.decoder.concepts.finder import Finder
from samserve.decoder.concepts.head import ConceptHeads
from samserve.decoder.concepts.remote import RemoteHead
from samserve.decoder.delayed_status import DelayedStatus
from samserve.decoder.forgetting import Forgetter
from samserve.decoder.image_lru import ImageLru
from samserve.decoder.image_source import ImageSource
from samserve.decoder.open_work import OpenWork
from samserve.decoder.prompt import Prompt
from samserve.decoder.registry import ModelRegistry
from samserve.decoder.remote_embedder import RemoteEmbedder
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.threads import Threads
from samserve.decoder.segmenter import Segmenter
from samserve.decoder.servicer import SegmentationServicer, StreamLimits, TimeLimits
from samserve.decoder.sweep.pool import SweepPool
from samserve.decoder.sweep.sweeper import Sweeper
from samserve.decoder.transfers import Transfers, bound_memory, resident_memory
from samserve.infra import tracing
from samserve.infra.addresses import bare_host, join_address
from samserve.infra.cache import EmbeddingCache
from samserve.infra.logs import set_up_logs
from samserve.infra.redis_link import UnsupportedRedis, refuse_cluster
from samserve.infra.settings import DecoderSettings, load_settings, parse_arguments
from samserve.v1 import segmentation_pb2, segmentation_pb2_grpc
from samserve.wire.callers import Callers
from samserve.wire.channel import METADATA_LIMITS, message_limits
from samserve.wire.parts import PartLimit

SERVICE = segmentation_pb2.DESCRIPTOR.services_by_name["SegmentationService"].full_name

HANDSHAKE_TIMEOUT_MS = 10_000  # for a new connection to become an HTTP/2 connection
KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS = 20_000, 10_000  # pings by the server
SHORTEST_PING_INTERVAL_MS = 4_000  # between pings of a client; gRPC's own limit is 5 minutes

log = structlog.get_logger()


async def serve(settings: DecoderSettings) -> None:
    """Serve until SIGTERM or SIGINT, then finish the calls in flight."""
    # The decoder shares out the cores itself.
    threadpool_limits(1, "blas")

    # Build the parts.
    threads = Threads(settings.decode_threads)
    bundles = Store(settings.bundles).load_all(settings.models)
    decoders = [MaskDecoder(bundle, threads) for bundle in bundles]
    models = ModelRegistry(decoders)
    models.publish_metrics()

    pool = ThreadPoolExecutor(settings.decode_threads, "decode")
    queue = DecodeQueue(
        settings.decode_threads,
        settings.decode_queue,
        settings.decode_batches,
        settings.tenant_share,
    )
    cache = EmbeddingCache(settings.cache_options)
    callers = Callers.of(settings)
    embedder = RemoteEmbedder(
        settings.embedding_url, settings.embed_timeout_s, settings.max_image_bytes, callers
    )
    resident = ImageLru(settings.resident_bytes, settings.delete_within_s)
    work = OpenWork()
    forgetter = Forgetter(resident, work, cache.deletions, settings.delete_within_s)
    source = ImageSource(resident, cache, embedder, pool, queue, settings.size_limits)
    segmenter = Segmenter(source, models, pool, queue)
    heads = {
        bundle.name: RemoteHead(bundle, cache, embedder, settings.size_limits)
        for bundle in bundles
        if bundle.concepts is not None
    }
    sweeps = SweepPool(
        settings.decode_threads, queue.quiet, settings.max_sweeps, settings.tenant_share
    )

    # Build the server.
    draining = asyncio.Event()
    limits = TimeLimits(slow=settings.slow_s, stream=settings.max_stream_s)
    streams = StreamLimits(settings.max_streams, settings.max_steps_per_s, settings.tenant_share)
    transfers = Transfers(settings.transfer_timeout_s, settings.transient_bytes)
    server = grpc.aio.server(
        interceptors=[DelayedStatus(draining, transfers)],
        options=server_options(settings),
        maximum_concurrent_rpcs=settings.max_streams + settings.max_calls,
    )
    segmentation_pb2_grpc.add_SegmentationServiceServicer_to_server(
        SegmentationServicer(
            segmenter,
            draining,
            limits,
            settings.request_limits,
            transfers,
            streams,
            sweeper=Sweeper(segmenter, sweeps),
            callers=callers,
            work=work,
            quotas=cache.quotas,
            finder=Finder(segmenter, ConceptHeads(heads), pool, queue),
        ),
        PartLimit(server),
    )
    checks = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection(
        [SERVICE, health_names.SERVICE_NAME, reflection.SERVICE_NAME], server
    )
    port = server.add_insecure_port(join_address(settings.host, settings.decoder_port))
    if settings.metrics_port:
        start_http_server(settings.metrics_port, bare_host(settings.host))

    # Warm up, then serve.
    warm_ups = [asyncio.to_thread(warm_up, decoder) for decoder in decoders]
    await asyncio.gather(*warm_ups, cache.check())
    most_memory = resident_memory() + settings.resident_bytes + settings.transient_bytes
    memory_bound = asyncio.create_task(bound_memory(transfers, most_memory))
    forgetting = asyncio.create_task(forgetter.run())
    await server.start()
    await _announce(checks, health_pb2.HealthCheckResponse.SERVING)
    log.info("ready", port=port, models=[decoder.bundle.model_version for decoder in decoders])
    await _signalled()

    # Drain. Idle streams would otherwise take the whole grace period.
    await _announce(checks, health_pb2.HealthCheckResponse.NOT_SERVING)
    draining.set()
    await server.stop(settings.drain_s)
    memory_bound.cancel()
    forgetting.cancel()
    await asyncio.gather(embedder.close(), cache.close())
    pool.shutdown()
    sweeps.close()
    log.info("drained")


def server_options(settings: DecoderSettings) -> list[tuple[str, int]]:
    """Return the gRPC server's options.

    A connection that has reached its maximum age takes no new calls. Its client then resolves the
    name again and finds new pods. Streams and embedding calls on the old connection have time to
    end by themselves.

    Clients may send keepalive pings, as load balancers in between require. The server sends its own
    and ends connections that do not answer, that are idle, or that never begin.
    """
    grace = settings.max_stream_s + settings.embed_timeout_s
    return [
        *message_limits(settings.max_image_bytes, settings.max_answer_bytes),
        *METADATA_LIMITS,
        ("grpc.so_reuseport", 0),
        ("grpc.max_connection_age_ms", round(1000 * settings.max_connection_age_s)),
        ("grpc.max_connection_age_grace_ms", round(1000 * grace)),
        ("grpc.max_connection_idle_ms", round(1000 * settings.max_connection_idle_s)),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.max_concurrent_streams", settings.max_calls_per_connection),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
        ("grpc.http2.settings_timeout", HANDSHAKE_TIMEOUT_MS),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", SHORTEST_PING_INTERVAL_MS),
    ]


def warm_up(decoder: MaskDecoder) -> None:
    """Decode a click on a blank image, so that the first caller does not wait for set-up."""
    bundle = decoder.bundle
    blank = {name: np.zeros(shape, np.float16) for name, shape in bundle.embedding.items()}
    size = Size(bundle.frame.side, bundle.frame.side)
    image = decoder.prepare(Embedding(bundle.model_version, size, blank))

    click = Prompt(
        points=np.zeros((1, 2), np.float32),
        labels=np.ones(1, np.float32),
        box=None,
        mask_input=None,
        multimask=True,
    )
    decoder.decode(image, [click])


async def _signalled() -> None:
    """Wait for SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await stopping.wait()


async def _announce(checks: health.HealthServicer, status: int) -> None:
    for name in ("", SERVICE):
        await checks.set(name, status)


def main() -> None:
    parse_arguments("python -m samserve.decoder.server", "Run the decoder.", DecoderSettings)
    settings = load_settings(DecoderSettings)
    set_up_logs("decoder", settings.log_level)
    tracing.set_up("decoder", settings.otlp_endpoint)
    try:
        refuse_cluster(settings.redis_url, settings.redis_timeout_s)
        asyncio.run(serve(settings))
    except (BrokenBundle, UnknownModel, UnsupportedRedis) as error:
        sys.exit(f"the decoder cannot start: {error}")


if __name__ == "__main__":
    main()
