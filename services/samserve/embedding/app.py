"""The embedding service on Ray Serve: wire only."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from ray import serve
from ray.serve.grpc_util import RayServegRPCContext, gRPCInputStream

from samserve.core.cache import CacheOptions, EmbeddingCache
from samserve.core.config import EmbeddingSettings, name_of, read
from samserve.core.embedding import Embedding, pack
from samserve.core.errors import DETAILS_KEY, code_of, status_of
from samserve.core.image import Limits
from samserve.core.metrics_port import share_metrics
from samserve.core.rpc import seconds_left, stage_times, tenant_of, write_status
from samserve.core.telemetry import StageClock, answering, set_up_logs
from samserve.embedding.admission import Admission, Priority
from samserve.embedding.as_done import as_done
from samserve.embedding.chunks import image_ref, messages
from samserve.embedding.embedder import Embedder, EmbedOrder
from samserve.embedding.encoder import TritonEncoder
from samserve.embedding.turns import Turns
from samserve.v1 import embedding_pb2 as pb
from samserve.v1 import types_pb2 as types

GRPC_SERVICERS = ["samserve.v1.embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server"]
M_MMAP_THRESHOLD, LARGE = -3, 2**18  # mallopt's name for it; bytes


class EmbeddingService:
    """One replica; its methods bear the names of the RPCs, as Ray Serve wants it."""

    def __init__(self, settings: EmbeddingSettings) -> None:
        set_up_logs("embedding", settings.log_level)
        if settings.metrics_port:
            share_metrics(settings.metrics_port, settings.host)
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)  # glibc would raise it, and keep what pictures took
        cache = EmbeddingCache(CacheOptions(settings.redis_url, settings.cache_ttl_s, settings.redis_timeout_s))
        encoder = TritonEncoder(settings.triton_url, settings.encode_timeout_s, name_of(settings.models[0]))
        limits = Limits(settings.max_image_bytes, settings.max_image_pixels, settings.max_image_aspect)
        pool = ThreadPoolExecutor(settings.image_threads, "image")
        turns = Turns(cache, settings.encode_timeout_s)
        admission = Admission(settings.embed_slots, settings.embed_queue)
        self._embedder = Embedder(cache, turns, admission, encoder, limits, pool, settings.cache_coding)
        self._checking = asyncio.ensure_future(cache.check())  # kept, lest it be collected before it is done
        self._in_flight = settings.many_in_flight

    async def Embed(self, request: pb.EmbedRequest, grpc_context: RayServegRPCContext) -> pb.EmbedResponse:
        priority = Priority.BULK if request.priority == pb.PRIORITY_BULK else Priority.INTERACTIVE
        with answering("Embed") as outcome:
            try:
                order = _order(request, grpc_context, priority)
                return await self._embed(
                    replace(order, want_tensors=request.include_embedding, expected_image_id=request.expected_image_id)
                )
            except Exception as error:
                outcome.code = _refuse(error, grpc_context)
                return pb.EmbedResponse()

    async def EmbedMany(
        self, requests: gRPCInputStream[pb.EmbedManyRequest], grpc_context: RayServegRPCContext
    ) -> AsyncIterator[pb.EmbedManyResponse]:
        async def answer(item: pb.EmbedManyRequest.Item) -> pb.EmbedManyResponse.Answer:
            try:
                done = await self._embed(_order(item, grpc_context, Priority.BULK))
                return pb.EmbedManyResponse.Answer(id=item.id, image=done)
            except Exception as error:
                return pb.EmbedManyResponse.Answer(id=item.id, error=status_of(error))

        batches = (request.items async for request in requests)
        with answering("EmbedMany"):
            async with aclosing(as_done(batches, answer, self._in_flight)) as answers:
                async for ready in answers:
                    yield pb.EmbedManyResponse(answers=ready)

    async def GetEmbedding(
        self, request: pb.GetEmbeddingRequest, grpc_context: RayServegRPCContext
    ) -> AsyncIterator[pb.GetEmbeddingResponse]:
        with answering("GetEmbedding") as outcome:
            try:
                order = EmbedOrder(
                    tenant=tenant_of(grpc_context.invocation_metadata()),
                    model=request.model,
                    data=None,
                    image_id=request.image.image_id,
                    expected_image_id="",
                    want_tensors=True,
                    model_version=request.image.model_version,
                )
                done = await self._embedder.embed(order, StageClock())
            except Exception as error:
                outcome.code = _refuse(error, grpc_context)
                yield pb.GetEmbeddingResponse()  # Ray Serve's proxy reads a stream's context only beside a message
                return
            if not isinstance(done.found, Embedding):
                raise AssertionError("unreachable: tensors were wanted")
            for message in messages(done.image_id, done.found):
                yield message

    async def _embed(self, order: EmbedOrder) -> pb.EmbedResponse:
        clock = StageClock()
        done = await self._embedder.embed(order, clock)
        found = done.found
        tensors = None
        if order.want_tensors and isinstance(found, Embedding):
            tensors = await asyncio.to_thread(pack, found)
        return pb.EmbedResponse(
            image=image_ref(done.image_id, found),
            cache=write_status(done.status),
            timings=stage_times(clock.milliseconds),
            embedding=None if tensors is None else types.PackedEmbedding(data=tensors),
        )


def _order(
    request: pb.EmbedRequest | pb.EmbedManyRequest.Item, context: RayServegRPCContext, priority: Priority
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


def _refuse(error: Exception, context: RayServegRPCContext) -> str:
    """Ray Serve sends what the context holds only if the method returns; a raised error loses its details. The code."""
    status = status_of(error)
    context.set_code(code_of(error))
    context.set_details(status.message)
    context.set_trailing_metadata([(DETAILS_KEY, status.SerializeToString())])
    return code_of(error).name


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
    return build(read(EmbeddingSettings))
