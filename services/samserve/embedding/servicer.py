"""The embedding service's gRPC methods: they translate, and decide nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractContextManager, aclosing

from ray.serve.grpc_util import RayServegRPCContext, gRPCInputStream

from samserve.core.caller import Caller, acting_for, current_caller
from samserve.core.crop import Crop
from samserve.core.errors import InvalidInput, Overloaded, SamserveError
from samserve.core.holders import Holders
from samserve.core.image_id import check_image_id
from samserve.core.image_request import ImageRequest
from samserve.core.limits import BulkLimits, check_count, check_string
from samserve.embedding.admission import Priority
from samserve.embedding.bounded import bounded
from samserve.embedding.concept_finder import ConceptFinder, ConceptResults
from samserve.embedding.concept_messages import read_concepts, read_image, write_results
from samserve.embedding.embedder import Embedder, EmbedResult, FetchResult
from samserve.embedding.embedding_chunks import messages
from samserve.infra.audit import audited
from samserve.infra.fair_turns import FairTurns
from samserve.infra.quotas import Quota, Quotas
from samserve.infra.stages import StageClock
from samserve.v1 import embedding_pb2 as pb
from samserve.v1 import types_pb2 as types
from samserve.wire.call import Call, call_scope, observe_call
from samserve.wire.callers import Callers, check_own_tenant
from samserve.wire.convert import cache_status_to_proto, image_ref, stage_times
from samserve.wire.metadata import seconds_left
from samserve.wire.parts import RefusedMessage, parsed
from samserve.wire.request_id import REQUEST_ID_KEY, request_id_of

PRIORITIES = {
    pb.PRIORITY_UNSPECIFIED: Priority.INTERACTIVE,
    pb.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
    pb.PRIORITY_BULK: Priority.BULK,
}


class EmbeddingServicer:
    """One replica's methods. Ray Serve calls them by the names of the RPCs."""

    def __init__(
        self,
        embedder: Embedder,
        finder: ConceptFinder,
        *,
        limits: BulkLimits,
        slow: float,
        callers: Callers | None = None,
        quotas: Quotas | None = None,
    ) -> None:
        """Create the methods.

        Args:
            embedder: Does the work.
            finder: Finds concepts.
            limits: On EmbedMany.
            slow: Seconds after which a call is logged.
            callers: Tell who makes a call.
            quotas: Of the tenants.
        """
        self._embedder = embedder
        self._finder = finder
        self._callers = callers or Callers()
        self._quotas = quotas or Quotas()
        self._limits = limits
        self._slow = slow

        self._streams = Holders(limits.streams, limits.share)
        self._places = FairTurns(limits.all_in_flight)

    async def Embed(
        self, request: pb.EmbedRequest | RefusedMessage, grpc_context: RayServegRPCContext
    ) -> pb.EmbedResponse:
        metadata = grpc_context.invocation_metadata()
        clock = StageClock()
        response = pb.EmbedResponse()

        with (
            call_scope("Embed", metadata, clock=clock, slow=self._slow) as call,
            self._callers.acting(metadata),
        ):
            self._quotas.take(Quota.REQUESTS)
            request = parsed(request)
            embed = self._embedder.fetch if request.include_embedding else self._embedder.embed
            result = await embed(
                _image_request(request, request.expected_image_id),
                clock,
                priority=_priority(request.priority),
                deadline=_deadline(metadata),
            )
            response = _response(result, clock)

        _end(call, grpc_context)
        return response

    async def EmbedMany(
        self,
        requests: gRPCInputStream[pb.EmbedManyRequest | RefusedMessage],
        grpc_context: RayServegRPCContext,
    ) -> AsyncIterator[pb.EmbedManyResponse]:
        metadata = grpc_context.invocation_metadata()
        request_id = request_id_of(metadata)
        grpc_context.set_trailing_metadata([(REQUEST_ID_KEY, request_id)])

        with observe_call("EmbedMany") as call:
            call.request_id = request_id
            try:
                caller = self._callers.read(metadata)
                with self._stream(caller):
                    async with aclosing(
                        self._answers(requests, metadata, request_id, caller)
                    ) as answers:
                        async for finished in answers:
                            yield pb.EmbedManyResponse(answers=finished)
            except SamserveError as error:
                call.fail(error)

        if call.failed:
            _end(call, grpc_context)
            yield pb.EmbedManyResponse()  # as in GetEmbedding

    def _stream(self, caller: Caller) -> AbstractContextManager[None]:
        """Count an EmbedMany stream while it is open. Raises Overloaded."""
        refusal = Overloaded(f"the pool of {self._limits.streams} EmbedMany streams")
        return self._streams.hold(refusal, caller.tenant)

    def _answers(
        self,
        requests: AsyncIterator[pb.EmbedManyRequest | RefusedMessage],
        metadata: list[tuple[str, str]],
        request_id: str,
        caller: Caller,
    ) -> AsyncGenerator[list[pb.EmbedManyResponse.Answer]]:
        """Answer the items of a stream, as many at once as the limits allow."""

        async def answer(item: pb.EmbedManyRequest.Item) -> pb.EmbedManyResponse.Answer:
            clock = StageClock()
            response: pb.EmbedResponse | None = None
            with (
                call_scope(
                    "EmbedMany.item", metadata, clock=clock, request_id=request_id, counted=False
                ) as call,
                acting_for(caller),
            ):
                self._quotas.take(Quota.REQUESTS)
                async with self._places.turn():
                    result = await self._embedder.embed(
                        _image_request(item),
                        clock,
                        priority=Priority.BULK,
                        deadline=_deadline(metadata),
                    )
                response = _response(result, clock)

            error = call.status if call.failed else None
            return pb.EmbedManyResponse.Answer(id=item.id, image=response, error=error)

        batches = (_items(parsed(request), self._limits.items) async for request in requests)
        return bounded(batches, answer, self._limits.in_flight)

    async def GetEmbedding(
        self, request: pb.GetEmbeddingRequest | RefusedMessage, grpc_context: RayServegRPCContext
    ) -> AsyncIterator[pb.GetEmbeddingResponse]:
        result = await self._fetch(request, grpc_context)
        if result is None:
            # Ray Serve's proxy reads a stream's context only together with a message.
            yield pb.GetEmbeddingResponse()
            return

        for message in messages(result.image_id, result.embedding):
            yield message

    async def FindConcepts(
        self, request: pb.FindConceptsRequest | RefusedMessage, grpc_context: RayServegRPCContext
    ) -> AsyncIterator[pb.FindConceptsResponse]:
        metadata = grpc_context.invocation_metadata()
        clock = StageClock()
        results: ConceptResults | None = None
        with (
            call_scope("FindConcepts", metadata, clock=clock, slow=self._slow) as call,
            self._callers.acting(metadata),
        ):
            self._quotas.take(Quota.REQUESTS)
            request = parsed(request)
            results = await self._finder.find(
                read_image(request),
                read_concepts(request),
                clock,
                deadline=_deadline(metadata),
            )

        _end(call, grpc_context)
        if results is None:
            yield pb.FindConceptsResponse()  # as in GetEmbedding
            return
        for message in write_results(results, clock):
            yield message

    async def DeleteEmbedding(
        self,
        request: pb.DeleteEmbeddingRequest | RefusedMessage,
        grpc_context: RayServegRPCContext,
    ) -> pb.DeleteEmbeddingResponse:
        metadata = grpc_context.invocation_metadata()
        deleted = False
        with call_scope("DeleteEmbedding", metadata) as call, self._callers.acting(metadata):
            deleted = await self._embedder.delete(_cached_image(parsed(request)))

        _end(call, grpc_context)
        return pb.DeleteEmbeddingResponse(deleted=deleted)

    async def DeleteImage(
        self, request: pb.DeleteImageRequest | RefusedMessage, grpc_context: RayServegRPCContext
    ) -> pb.DeleteImageResponse:
        metadata = grpc_context.invocation_metadata()
        response = pb.DeleteImageResponse()
        with (
            call_scope("DeleteImage", metadata) as call,
            self._callers.acting(metadata) as caller,
        ):
            image_id = check_image_id(parsed(request).image_id)
            with audited("delete_image", image_id=image_id) as audit:
                image = ImageRequest(caller.owner, "", None, image_id)
                response.deleted = await self._embedder.delete_image(image)
                audit["entries"] = response.deleted

        _end(call, grpc_context)
        return response

    async def DeleteTenant(
        self, request: pb.DeleteTenantRequest | RefusedMessage, grpc_context: RayServegRPCContext
    ) -> pb.DeleteTenantResponse:
        metadata = grpc_context.invocation_metadata()
        response = pb.DeleteTenantResponse()
        with (
            call_scope("DeleteTenant", metadata) as call,
            self._callers.acting(metadata) as caller,
            audited("delete_tenant") as audit,
        ):
            check_own_tenant(parsed(request).tenant, caller)
            response.deleted = await self._embedder.delete_owner(caller.owner)
            audit["entries"] = response.deleted

        _end(call, grpc_context)
        return response

    async def _fetch(
        self, request: pb.GetEmbeddingRequest | RefusedMessage, context: RayServegRPCContext
    ) -> FetchResult | None:
        """Return the embedding, or None if the call has failed."""
        metadata = context.invocation_metadata()
        clock = StageClock()
        result: FetchResult | None = None
        with (
            call_scope("GetEmbedding", metadata, clock=clock, slow=self._slow) as call,
            self._callers.acting(metadata),
        ):
            self._quotas.take(Quota.REQUESTS)
            result = await self._embedder.fetch(_cached_image(parsed(request)), clock)

        _end(call, context)
        return result


def _image_request(
    request: pb.EmbedRequest | pb.EmbedManyRequest.Item,
    expected_image_id: str = "",
) -> ImageRequest:
    return ImageRequest(
        owner=current_caller().owner,
        model=check_string(request.model, "model"),
        data=request.data if request.WhichOneof("image") == "data" else None,
        image_id=request.image_id,
        expected_image_id=check_string(expected_image_id, "expected_image_id"),
        crop=_crop(request.crop)
        if isinstance(request, pb.EmbedRequest) and request.HasField("crop")
        else None,
    )


def _crop(box: types.Box) -> Crop:
    """Return the part to embed. Raises InvalidInput."""
    edges = box.x0, box.y0, box.x1, box.y1
    if not all(edge >= 0 and edge.is_integer() for edge in edges):
        raise InvalidInput("crop", f"crop {edges} is invalid: expected whole pixels, 0 or more")
    return Crop(*map(int, edges))


def _cached_image(request: pb.GetEmbeddingRequest | pb.DeleteEmbeddingRequest) -> ImageRequest:
    return ImageRequest(
        owner=current_caller().owner,
        model=check_string(request.model, "model"),
        data=None,
        image_id=request.image.image_id,
        model_version=check_string(request.image.model_version, "image.model_version"),
    )


def _items(request: pb.EmbedManyRequest, limit: int) -> Sequence[pb.EmbedManyRequest.Item]:
    check_count(len(request.items), limit, "items", "items in one request")
    items: Sequence[pb.EmbedManyRequest.Item] = request.items
    return items


def _priority(priority: pb.Priority) -> Priority:
    if priority not in PRIORITIES:
        raise InvalidInput(
            "priority",
            f"priority: unknown value {priority}; available: 1 (interactive), 2 (bulk)",
        )
    return PRIORITIES[priority]


def _deadline(metadata: list[tuple[str, str]]) -> float:
    """Return the caller's deadline by the event loop's clock."""
    return asyncio.get_running_loop().time() + seconds_left(metadata)


def _response(result: EmbedResult | FetchResult, clock: StageClock) -> pb.EmbedResponse:
    response = pb.EmbedResponse(
        cache=cache_status_to_proto(result.status), timings=stage_times(clock.milliseconds)
    )
    if isinstance(result, FetchResult):
        response.image.CopyFrom(image_ref(result.image_id, result.embedding))
        response.embedding.data = result.embedding.packed
    else:
        response.image.CopyFrom(image_ref(result.image_id, result.header))
    return response


def _end(call: Call, context: RayServegRPCContext) -> None:
    """Send the call's status. Ray Serve loses the details of an error that a method raises."""
    if call.failed:
        context.set_code(call.code)
        context.set_details(call.status.message)
    context.set_trailing_metadata(list(call.trailing_metadata))
