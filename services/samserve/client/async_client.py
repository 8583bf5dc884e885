"""The client for asyncio, as client.py is for threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import grpc.aio

from samserve.client.answer import (
    Answer,
    EmbedAnswer,
    Model,
    read_answer,
    read_embed_answer,
    read_models,
)
from samserve.client.async_interaction import AsyncInteraction, open_interaction
from samserve.client.base import (
    DECODER,
    EMBEDDING,
    OPENING_PAUSES,
    ClientBase,
    add_bytes,
    decoder_address,
    embedding_address,
)
from samserve.client.channel import open_async_channel
from samserve.client.concept import ConceptsInput, Findings, read_findings, write_concepts
from samserve.client.decoder_files import DecoderDescription, read_description
from samserve.client.embedding_reader import TensorReader
from samserve.client.everything import (
    DEFAULT_GRID,
    DEFAULT_SURENESS,
    Everything,
    EverythingReader,
    GridOptions,
    OnProgress,
    Region,
    Sureness,
    write_proposals,
)
from samserve.client.image import CachedImage, HashedImage, ImageInput, hashed_image
from samserve.client.output import MaskFormat, write_output
from samserve.client.prompt import BoxInput, Logits, Points, Prompt, write_prompts
from samserve.client.retry import AsyncRetryingCaller
from samserve.client.servers import for_attempts, open_async_servers
from samserve.client.split import Part, ask_in_parts_async
from samserve.core.caller import DEFAULT_TENANT
from samserve.core.embedding import Embedding
from samserve.core.errors import EmbeddingNotCached, Overloaded, Unavailable
from samserve.core.geometry import Size
from samserve.infra import tracing
from samserve.v1 import embedding_pb2, embedding_pb2_grpc, segmentation_pb2, segmentation_pb2_grpc
from samserve.wire.status import error_of

Request = TypeVar(
    "Request",
    segmentation_pb2.PredictRequest,
    segmentation_pb2.InteractRequest.Open,
    segmentation_pb2.GenerateMasksRequest,
    segmentation_pb2.FindRequest,
    embedding_pb2.EmbedRequest,
)
Result = TypeVar("Result")

NO_DESCRIPTION = "the decoder ended the stream before its description; retry"


class AsyncClient(ClientBase, AbstractAsyncContextManager["AsyncClient"]):
    """A connection to a decoder and an embedding service, for one event loop.

    Arguments, answers and errors are those of `Client`.
    """

    def __init__(
        self,
        decoder: str | None = None,
        embedding: str | None = None,
        *,
        model: str = "",
        tenant: str = DEFAULT_TENANT,
        timeout: float = 60,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Connect lazily; the first call opens the connection."""
        super().__init__(model, tenant, timeout, metadata)
        self._decoder = open_async_servers(decoder_address(decoder), credentials)
        self._embedding = open_async_channel(embedding_address(embedding), credentials)

        segmentation_stub = segmentation_pb2_grpc.SegmentationServiceStub(self._decoder)
        self._predict = segmentation_stub.Predict
        self._interact = segmentation_stub.Interact
        self._generate_masks = segmentation_stub.GenerateMasks
        self._find = segmentation_stub.Find
        self._list_models = segmentation_stub.ListModels
        self._get_decoder = segmentation_stub.GetDecoder

        embedding_stub = embedding_pb2_grpc.EmbeddingServiceStub(self._embedding)
        self._embed = embedding_stub.Embed
        self._get_embedding = embedding_stub.GetEmbedding
        self._delete_embedding = embedding_stub.DeleteEmbedding
        self._delete_image = embedding_stub.DeleteImage
        self._delete_tenant = embedding_stub.DeleteTenant

        self._decoder_calls = AsyncRetryingCaller(DECODER)
        self._embedding_calls = AsyncRetryingCaller(EMBEDDING)
        self._predict_hedge = self._decoder_calls.hedge()
        self._embed_hedge = self._embedding_calls.hedge()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await asyncio.gather(self._decoder.close(), self._embedding.close())

    async def segment(
        self,
        image: ImageInput,
        points: Points = (),
        *,
        box: BoxInput | None = None,
        mask_input: Logits = b"",
        multimask: bool = True,
        low_res_logits: bool = False,
        clamp: bool = False,
    ) -> Answer:
        """Segment one object, as `Client.segment`."""
        prompt = Prompt(points, box, mask_input, multimask)
        return await self.predict(image, [prompt], low_res_logits=low_res_logits, clamp=clamp)

    async def predict(
        self,
        image: ImageInput,
        prompts: Sequence[Prompt],
        *,
        low_res_logits: bool = False,
        formats: Sequence[MaskFormat] = ("rle",),
        polygon_tolerance: float = 1,
        max_masks: int = 0,
        clamp: bool = False,
    ) -> Answer:
        """Answer several prompts on one image, as `Client.predict`."""
        hashed = await self._hash(image)
        written = write_prompts(prompts, await self._size_of(hashed) if clamp else None)
        output = write_output(
            formats=formats,
            low_res_logits=low_res_logits,
            polygon_tolerance=polygon_tolerance,
            max_masks=max_masks,
        )
        deadline = time.monotonic() + self._timeout

        async def call(request: segmentation_pb2.PredictRequest) -> Answer:
            return await self._request_masks(deadline, request)

        async def ask(part: Part) -> Answer:
            request = self._predict_request(hashed, part.prompts, output)
            return await _by_hash_then_bytes(call, request, hashed)

        answer = await ask_in_parts_async(written, ask)
        self._last_size = (hashed.image_id, answer.size)
        return answer

    @asynccontextmanager
    async def interact(
        self, image: ImageInput, *, low_res_logits: bool = False
    ) -> AsyncIterator[AsyncInteraction]:
        """Open a stream for one image: `async with client.interact("photo.jpg") as photo: ...`."""
        hashed = await self._hash(image)
        opening = self._opening(hashed, write_output(low_res_logits=low_res_logits))
        async with await _by_hash_then_bytes(self._open_interaction, opening, hashed) as stream:
            yield stream

    async def generate_masks(
        self,
        image: ImageInput,
        options: GridOptions = DEFAULT_GRID,
        *,
        formats: Sequence[MaskFormat] = ("rle",),
        polygon_tolerance: float = 1,
        max_masks: int = 0,
        on_progress: OnProgress | None = None,
    ) -> Everything:
        """Segment everything in an image, as `Client.generate_masks`."""
        output = write_output(
            formats=formats, polygon_tolerance=polygon_tolerance, max_masks=max_masks
        )
        return await self._everything(image, options, output, on_progress)

    async def propose(
        self,
        image: ImageInput,
        accepted: Sequence[Region] = (),
        options: GridOptions = DEFAULT_GRID,
        *,
        sureness: Sureness = DEFAULT_SURENESS,
        formats: Sequence[MaskFormat] = ("rle",),
        polygon_tolerance: float = 1,
        max_masks: int = 0,
        on_progress: OnProgress | None = None,
    ) -> Everything:
        """Find the regions that are left, as `Client.propose`."""
        output = write_output(
            formats=formats, polygon_tolerance=polygon_tolerance, max_masks=max_masks
        )
        proposals = write_proposals(accepted, sureness)
        return await self._everything(image, options, output, on_progress, proposals)

    async def find(
        self,
        image: ImageInput,
        concepts: ConceptsInput,
        *,
        threshold: float | None = None,
        max_overlap: float = 0,
        low_res_logits: bool = False,
        formats: Sequence[MaskFormat] = ("rle",),
        polygon_tolerance: float = 1,
        max_masks: int = 0,
    ) -> Findings:
        """Find every instance of concepts, as `Client.find`."""
        hashed = await self._hash(image)
        output = write_output(
            formats=formats,
            low_res_logits=low_res_logits,
            polygon_tolerance=polygon_tolerance,
            max_masks=max_masks,
        )
        written = write_concepts(concepts)
        request = self._find_request(hashed, written, output, threshold, max_overlap)
        return await _by_hash_then_bytes(self._request_findings, request, hashed)

    async def embed(self, image: ImageInput) -> EmbedAnswer:
        """Embed an image before its first click, as `Client.embed`."""
        hashed = await self._hash(image)
        request = self._embed_request(hashed)
        return await _by_hash_then_bytes(self._request_embedding, request, hashed)

    async def embedding(self, image: ImageInput) -> Embedding:
        """Return the embedding itself, as `Client.embedding`."""
        hashed = await self._hash(image)
        try:
            return await self._fetch_tensors(self._tensors_request(hashed))
        except EmbeddingNotCached as problem:
            request = self._embed_request(hashed)
            add_bytes(request, hashed, problem)
            answer = await self._request_embedding(request)
            return await self._fetch_tensors(self._tensors_request(hashed, answer.model_version))

    async def delete(self, image: ImageInput) -> bool:
        """Delete an image's embedding from the cache, as `Client.delete`."""
        response = await self._embedding_calls.call(
            self._delete_embedding,
            self._delete_request((await self._hash(image)).image_id),
            timeout=self._timeout,
            metadata=self._metadata,
        )
        return bool(response.deleted)

    async def delete_image(self, image: ImageInput) -> int:
        """Delete every trace of an image, as `Client.delete_image`."""
        response = await self._embedding_calls.call(
            self._delete_image,
            self._delete_image_request((await self._hash(image)).image_id),
            timeout=self._timeout,
            metadata=self._metadata,
        )
        return int(response.deleted)

    async def delete_tenant(self, tenant: str) -> int:
        """Delete every trace of this client's tenant, as `Client.delete_tenant`."""
        response = await self._embedding_calls.call(
            self._delete_tenant,
            self._delete_tenant_request(tenant),
            timeout=self._timeout,
            metadata=self._metadata,
        )
        return int(response.deleted)

    async def models(self) -> list[Model]:
        """List the models that the decoder serves; the first is the default."""
        response = await self._decoder_calls.call(
            self._list_models,
            segmentation_pb2.ListModelsRequest(),
            timeout=self._timeout,
            metadata=self._metadata,
        )
        return read_models(response)

    async def decoder_description(self) -> DecoderDescription:
        """Return how the model's decoder is computed."""
        messages = [each async for each in self._decoder_messages(description_only=True)]
        if not messages:
            raise Unavailable(NO_DESCRIPTION)
        return read_description(messages[0].description)

    async def decoder_weights(self) -> AsyncGenerator[DecoderDescription | bytes, None]:
        """Yield how the model's decoder is computed, then the bytes of its weights in chunks."""
        async with aclosing(self._decoder_messages(description_only=False)) as messages:
            async for message in messages:
                if message.WhichOneof("message") == "description":
                    yield read_description(message.description)
                else:
                    yield message.chunk

    async def _decoder_messages(
        self, *, description_only: bool
    ) -> AsyncGenerator[segmentation_pb2.GetDecoderResponse, None]:
        request = segmentation_pb2.GetDecoderRequest(
            model=self._model, description_only=description_only
        )
        try:
            async for message in self._get_decoder(
                request, timeout=self._timeout, metadata=self._metadata
            ):
                yield message
        except grpc.RpcError as problem:
            raise error_of(problem, DECODER) from problem

    async def _hash(self, image: ImageInput) -> HashedImage:
        """Read and hash an image, in a thread: megabytes take milliseconds."""
        if isinstance(image, CachedImage) or image is self._last_image.data:
            return hashed_image(image, self._last_image)
        self._last_image = await asyncio.to_thread(hashed_image, image, self._last_image)
        return self._last_image

    async def _size_of(self, image: HashedImage) -> Size:
        """Ask for an image's size, which takes its embedding. The last one is known."""
        known = self._last_size
        if known is None or known[0] != image.image_id:
            request = self._embed_request(image)
            answer = await _by_hash_then_bytes(self._request_embedding, request, image)
            known = self._last_size = (image.image_id, answer.size)
        return known[1]

    async def _request_masks(
        self, deadline: float, request: segmentation_pb2.PredictRequest
    ) -> Answer:
        with tracing.span("Predict", tracing.Kind.CLIENT):
            response = await self._decoder_calls.call(
                self._predict,
                request,
                timeout=max(deadline - time.monotonic(), 0.0),
                metadata=self._placed(request),
                hedge=None if request.data else self._predict_hedge,
                prompts=max(len(request.prompts), 1),
            )
            return read_answer(response)

    async def _open_interaction(
        self, opening: segmentation_pb2.InteractRequest.Open
    ) -> AsyncInteraction:
        with tracing.span("Interact.open", tracing.Kind.CLIENT):
            metadata = (*self._placed(opening), *tracing.inject_headers())
            start = partial(for_attempts(self._interact), metadata=metadata)
            for pause in OPENING_PAUSES:
                try:
                    return await open_interaction(start, opening, self._timeout)
                except (Unavailable, Overloaded):
                    await asyncio.sleep(pause)
            return await open_interaction(start, opening, self._timeout)

    async def _request_findings(self, request: segmentation_pb2.FindRequest) -> Findings:
        with tracing.span("Find", tracing.Kind.CLIENT):
            response = await self._decoder_calls.call(
                self._find, request, timeout=self._timeout, metadata=self._placed(request)
            )
            return read_findings(response)

    async def _everything(
        self,
        image: ImageInput,
        options: GridOptions,
        output: segmentation_pb2.OutputOptions,
        on_progress: OnProgress | None,
        proposals: segmentation_pb2.ProposalOptions | None = None,
    ) -> Everything:
        hashed = await self._hash(image)
        request = self._everything_request(hashed, options, output, proposals)
        call = partial(self._request_everything, on_progress)
        return await _by_hash_then_bytes(call, request, hashed)

    async def _request_everything(
        self, on_progress: OnProgress | None, request: segmentation_pb2.GenerateMasksRequest
    ) -> Everything:
        method = for_attempts(self._generate_masks)

        async def read(
            request: segmentation_pb2.GenerateMasksRequest, **options: Any
        ) -> Everything:
            reader = EverythingReader(on_progress)
            async for message in method(request, **options):
                reader.read(message)
            return reader.everything()

        with tracing.span("GenerateMasks", tracing.Kind.CLIENT):
            everything: Everything = await self._decoder_calls.call(
                read, request, timeout=self._timeout, metadata=self._placed(request)
            )
            return everything

    async def _request_embedding(self, request: embedding_pb2.EmbedRequest) -> EmbedAnswer:
        with tracing.span("Embed", tracing.Kind.CLIENT):
            response = await self._embedding_calls.call(
                self._embed,
                request,
                timeout=self._timeout,
                metadata=self._metadata,
                hedge=None if request.data else self._embed_hedge,
            )
            return read_embed_answer(response)

    async def _fetch_tensors(self, request: embedding_pb2.GetEmbeddingRequest) -> Embedding:
        reader = TensorReader()
        try:
            with tracing.span("GetEmbedding", tracing.Kind.CLIENT):
                metadata = (*self._metadata, *tracing.inject_headers())
                async for message in self._get_embedding(
                    request, timeout=self._timeout, metadata=metadata
                ):
                    reader.read(message)
        except grpc.RpcError as problem:
            raise error_of(problem, EMBEDDING) from problem
        return reader.embedding()


async def _by_hash_then_bytes(
    call: Callable[[Request], Awaitable[Result]], request: Request, image: HashedImage
) -> Result:
    """Make a call that names the image by hash; if the image is unknown, again with its bytes."""
    try:
        return await call(request)
    except EmbeddingNotCached as problem:
        add_bytes(request, image, problem)
        return await call(request)
