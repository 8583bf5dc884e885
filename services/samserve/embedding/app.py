"""The embedding service on Ray Serve: wire only."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray import serve
from ray.serve.grpc_util import RayServegRPCContext

from samserve.core.cache import CacheOptions, EmbeddingCache
from samserve.core.config import EmbeddingSettings, read
from samserve.core.embedding import Embedding, pack
from samserve.core.errors import DETAILS_KEY, code_of, status_of
from samserve.core.image import Limits
from samserve.core.rpc import stage_times, tenant_of
from samserve.core.telemetry import StageClock, set_up_logs
from samserve.embedding.embedder import Embedder, EmbedOrder
from samserve.embedding.encoder import TritonEncoder
from samserve.v1 import embedding_pb2 as pb
from samserve.v1 import types_pb2 as types

GRPC_SERVICERS = ["samserve.v1.embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server"]
M_MMAP_THRESHOLD, LARGE = -3, 2**18  # mallopt's name for it; bytes


class EmbeddingService:
    """One replica; its methods bear the names of the RPCs, as Ray Serve wants it."""

    def __init__(self, settings: EmbeddingSettings) -> None:
        set_up_logs("embedding", settings.log_level)
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)  # glibc would raise it, and keep what pictures took
        cache = EmbeddingCache(CacheOptions(settings.redis_url, settings.cache_ttl_s, settings.redis_timeout_s))
        encoder = TritonEncoder(settings.triton_url, settings.encode_timeout_s)
        limits = Limits(settings.max_image_bytes, settings.max_image_pixels, settings.max_image_aspect)
        pool = ThreadPoolExecutor(settings.image_threads, "image")
        self._embedder = Embedder(cache, encoder, limits, pool)

    async def Embed(self, request: pb.EmbedRequest, grpc_context: RayServegRPCContext) -> pb.EmbedResponse:
        clock = StageClock()
        try:
            order = EmbedOrder(
                tenant=tenant_of(grpc_context.invocation_metadata()),
                model=request.model,
                data=request.data if request.WhichOneof("image") == "data" else None,
                image_id=request.image_id,
                want_tensors=request.include_embedding,
            )
            done = await self._embedder.embed(order, clock)
        except Exception as error:
            return _refuse(error, grpc_context)
        found = done.found
        tensors = pack(found) if request.include_embedding and isinstance(found, Embedding) else None
        return pb.EmbedResponse(
            image=types.ImageRef(
                image_id=done.image_id,
                model_version=found.model_version,
                width=found.size.width,
                height=found.size.height,
            ),
            cache=types.CACHE_STATUS_HIT if done.hit else types.CACHE_STATUS_MISS,
            timings=stage_times(clock.milliseconds),
            embedding=None if tensors is None else types.PackedEmbedding(data=tensors),
        )


def _refuse(error: Exception, context: RayServegRPCContext) -> pb.EmbedResponse:
    """Ray Serve sends what the context holds only if the method returns; a raised error loses its details."""
    status = status_of(error)
    context.set_code(code_of(error))
    context.set_details(status.message)
    context.set_trailing_metadata([(DETAILS_KEY, status.SerializeToString())])
    return pb.EmbedResponse()


def build(settings: EmbeddingSettings) -> Any:
    """The Ray Serve application for these settings."""
    deployment = serve.deployment(
        EmbeddingService,
        name="EmbeddingService",
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": settings.replica_cpus},
        max_ongoing_requests=64,
        max_queued_requests=256,
    )
    return deployment.bind(settings)


def from_environment(_: dict[str, str]) -> Any:
    """The application with its settings from the environment: the import path of a Serve config file."""
    return build(read(EmbeddingSettings))
