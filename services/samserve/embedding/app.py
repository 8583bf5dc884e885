"""The embedding service on Ray Serve: wire only."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any

from ray import serve
from ray.serve.grpc_util import RayServegRPCContext, gRPCInputStream
from structlog.contextvars import bound_contextvars

from samserve.bundles.names import model_name
from samserve.codec.packed import pack
from samserve.core.embedding import Embedding
from samserve.core.image import Limits
from samserve.embedding.admission import EncodeSlots, Priority
from samserve.embedding.bounded import bounded
from samserve.embedding.embedder import Embedder, EmbedOrder
from samserve.embedding.embedding_chunks import image_ref, messages
from samserve.embedding.encoder import TritonEncoder
from samserve.embedding.single_flight import SingleFlight
from samserve.infra import tracing
from samserve.infra.cache import CacheOptions, EmbeddingCache
from samserve.infra.logs import set_up_logs
from samserve.infra.metrics_port import share_metrics
from samserve.infra.settings import EmbeddingSettings, load_settings
from samserve.infra.stages import StageClock
from samserve.infra.tracing import Kind, continue_trace, span
from samserve.v1 import embedding_pb2 as pb
from samserve.v1 import types_pb2 as types
from samserve.wire.call import Outcome, observe_call
from samserve.wire.metadata import cache_status_to_proto, seconds_left, stage_times, tenant_of
from samserve.wire.request_id import REQUEST_ID_KEY, request_id_here, request_id_of
from samserve.wire.status import DETAILS_KEY, code_of, status_of

GRPC_SERVICERS = ["samserve.v1.embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server"]
M_MMAP_THRESHOLD, LARGE = -3, 2**18  # mallopt's name for it; bytes


class EmbeddingService:
    """One replica; its methods bear the names of the RPCs, as Ray Serve wants it."""

    def __init__(self, settings: EmbeddingSettings) -> None:
        set_up_logs("embedding", settings.log_level)
        tracing.set_up("embedding", settings.otlp_endpoint)
        if settings.metrics_port:
            share_metrics(settings.metrics_port, settings.host)
        ctypes.CDLL(None).mallopt(
            M_MMAP_THRESHOLD, LARGE
        )  # glibc would raise it, and keep what pictures took
        cache = EmbeddingCache(
            CacheOptions(settings.redis_url, settings.cache_ttl_s, settings.redis_timeout_s)
        )
        encoder = TritonEncoder(
            settings.triton_url, settings.encode_timeout_s, model_name(settings.models[0])
        )
        limits = Limits(
            settings.max_image_bytes, settings.max_image_pixels, settings.max_image_aspect
        )
        pool = ThreadPoolExecutor(settings.image_threads, "image")
        turns = SingleFlight(cache, settings.encode_timeout_s)
        admission = EncodeSlots(settings.embed_slots, settings.embed_queue)
        self._embedder = Embedder(
            cache, turns, admission, encoder, limits, pool, settings.cache_coding
        )
        self._checking = asyncio.ensure_future(
            cache.check()
        )  # kept, lest it be collected before it is done
        self._in_flight, self._slow = settings.many_in_flight, settings.slow_s

    async def Embed(
        self, request: pb.EmbedRequest, grpc_context: RayServegRPCContext
    ) -> pb.EmbedResponse:
        priority = Priority.BULK if request.priority == pb.PRIORITY_BULK else Priority.INTERACTIVE
        clock = StageClock()
        with _answering("Embed", grpc_context, clock, self._slow) as outcome:
            try:
                with span("Embed", Kind.SERVER):
                    order = replace(
                        _order(request, grpc_context, priority),
                        want_tensors=request.include_embedding,
                        expected_image_id=request.expected_image_id,
                    )
                    return await self._embed(order, clock)
            except Exception as error:
                _refuse(error, grpc_context, outcome)
                return pb.EmbedResponse()

    async def EmbedMany(
        self, requests: gRPCInputStream[pb.EmbedManyRequest], grpc_context: RayServegRPCContext
    ) -> AsyncIterator[pb.EmbedManyResponse]:
        metadata = grpc_context.invocation_metadata()
        request_id = request_id_of(metadata)
        grpc_context.set_trailing_metadata([(REQUEST_ID_KEY, request_id)])

        async def answer(item: pb.EmbedManyRequest.Item) -> pb.EmbedManyResponse.Answer:
            with bound_contextvars(request_id=request_id), continue_trace(metadata):
                try:
                    with span("EmbedMany.item", Kind.SERVER):
                        done = await self._embed(
                            _order(item, grpc_context, Priority.BULK), StageClock()
                        )
                        return pb.EmbedManyResponse.Answer(id=item.id, image=done)
                except Exception as error:
                    return pb.EmbedManyResponse.Answer(id=item.id, error=status_of(error))

        batches = (request.items async for request in requests)
        with observe_call("EmbedMany"):
            async with aclosing(bounded(batches, answer, self._in_flight)) as answers:
                async for ready in answers:
                    yield pb.EmbedManyResponse(answers=ready)

    async def GetEmbedding(
        self, request: pb.GetEmbeddingRequest, grpc_context: RayServegRPCContext
    ) -> AsyncIterator[pb.GetEmbeddingResponse]:
        found = await self._fetch(request, grpc_context)
        if found is None:
            yield pb.GetEmbeddingResponse()  # Ray Serve's proxy reads a stream's context only beside a message
            return
        for message in messages(*found):
            yield message

    async def _fetch(
        self, request: pb.GetEmbeddingRequest, context: RayServegRPCContext
    ) -> tuple[str, Embedding] | None:
        """An image's id and embedding; None if the call has been refused."""
        clock = StageClock()
        with _answering("GetEmbedding", context, clock, self._slow) as outcome:
            try:
                with span("GetEmbedding", Kind.SERVER):
                    order = EmbedOrder(
                        tenant=tenant_of(context.invocation_metadata()),
                        model=request.model,
                        data=None,
                        image_id=request.image.image_id,
                        expected_image_id="",
                        want_tensors=True,
                        model_version=request.image.model_version,
                    )
                    done = await self._embedder.embed(order, clock)
            except Exception as error:
                _refuse(error, context, outcome)
                return None
        if not isinstance(done.found, Embedding):
            raise AssertionError("unreachable: tensors were wanted")
        return done.image_id, done.found

    async def _embed(self, order: EmbedOrder, clock: StageClock) -> pb.EmbedResponse:
        done = await self._embedder.embed(order, clock)
        found = done.found
        tensors = None
        if order.want_tensors and isinstance(found, Embedding):
            tensors = await asyncio.to_thread(pack, found)
        return pb.EmbedResponse(
            image=image_ref(done.image_id, found),
            cache=cache_status_to_proto(done.status),
            timings=stage_times(clock.milliseconds),
            embedding=None if tensors is None else types.PackedEmbedding(data=tensors),
        )


def _order(
    request: pb.EmbedRequest | pb.EmbedManyRequest.Item,
    context: RayServegRPCContext,
    priority: Priority,
) -> EmbedOrder:
    return EmbedOrder(
        tenant=tenant_of(context.invocation_metadata()),
        model=request.model,
        data=request.data if request.WhichOneof("image") == "data" else None,
        image_id=request.image_id,
        expected_image_id="",
        want_tensors=False,
        priority=priority,
        deadline=asyncio.get_running_loop().time() + seconds_left(context.invocation_metadata()),
    )


@contextmanager
def _answering(
    method: str, context: RayServegRPCContext, clock: StageClock, slow: float
) -> Iterator[Outcome]:
    """As `answering`, under the call's id, and as part of its caller's trace."""
    metadata = context.invocation_metadata()
    request_id = request_id_of(metadata)
    context.set_trailing_metadata([(REQUEST_ID_KEY, request_id)])
    with (
        bound_contextvars(request_id=request_id),
        continue_trace(metadata),
        observe_call(method, clock, slow) as outcome,
    ):
        yield outcome


def _refuse(error: Exception, context: RayServegRPCContext, outcome: Outcome) -> None:
    """Ray Serve sends what the context holds only if the method returns; a raised error loses its details."""
    code, status = code_of(error), status_of(error)
    outcome.code, outcome.reason = code.name, status.message
    context.set_code(code)
    context.set_details(status.message)
    context.set_trailing_metadata([*request_id_here(), (DETAILS_KEY, status.SerializeToString())])


def build(settings: EmbeddingSettings) -> Any:
    """The Ray Serve application for these settings."""
    deployment = serve.deployment(
        EmbeddingService,
        name="EmbeddingService",
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": settings.replica_cpus},
        max_ongoing_requests=4 * (settings.embed_slots + settings.embed_queue),  # hits need no slot
        max_queued_requests=settings.embed_queue,
    )
    return deployment.bind(settings)


def from_environment(_: dict[str, str]) -> Any:
    """The application with its settings from the environment: the import path of a Serve config file."""
    return build(load_settings(EmbeddingSettings))
