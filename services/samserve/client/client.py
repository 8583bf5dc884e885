"""The client: asks for an image by hash, and uploads its bytes only if the hash is unknown."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeVar

import grpc

from samserve.client.answer import (
    Answer,
    BulkResult,
    EmbedAnswer,
    Model,
    read_answer,
    read_embed_answer,
    read_models,
)
from samserve.client.base import (
    DECODER,
    EMBEDDING,
    OPENING_PAUSES,
    ClientBase,
    add_bytes,
    decoder_address,
    embedding_address,
)
from samserve.client.bulk import BulkEmbedding
from samserve.client.bulk_scheduler import BulkOptions
from samserve.client.channel import open_channel
from samserve.client.concept import ConceptsInput, Findings, read_findings, write_concepts
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
from samserve.client.interaction import Interaction
from samserve.client.output import MaskFormat, write_output
from samserve.client.prompt import BoxInput, Logits, Points, Prompt, write_prompts
from samserve.client.retry import RetryingCaller
from samserve.client.servers import for_attempts, open_servers
from samserve.client.split import Part, ask_in_parts
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


class Client(ClientBase, AbstractContextManager["Client"]):
    """A connection to a decoder and an embedding service. Threads may share it.

    Failures are raised as the classes of samserve.core.errors. If this process has set up
    OpenTelemetry, calls belong to its traces.
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
        """Connect lazily; the first call opens the connection.

        Args:
            decoder: address of the decoder, host:port; by default DECODER_URL of the environment,
                else this machine. With `dns:///NAME:PORT`, or several addresses separated by
                commas, each call goes to the decoder that has its image ready.
            embedding: address of the embedding service; by default EMBEDDING_URL.
            model: the model of all calls; empty for the server's default.
            tenant: whose cache entries the calls use.
            timeout: seconds for a call with all its attempts.
            credentials: of both channels, for instance `grpc.ssl_channel_credentials()`; None for
                connections without TLS.
            metadata: further pairs to send with each call, such as an API key; 8 kB at most.

        Raises:
            InvalidInput: the metadata is too large.
        """
        super().__init__(model, tenant, timeout, metadata)
        self._decoder = open_servers(decoder_address(decoder), credentials)
        self._embedding = open_channel(embedding_address(embedding), credentials)

        segmentation_stub = segmentation_pb2_grpc.SegmentationServiceStub(self._decoder)
        self._predict = segmentation_stub.Predict
        self._interact = segmentation_stub.Interact
        self._generate_masks = segmentation_stub.GenerateMasks
        self._find = segmentation_stub.Find
        self._list_models = segmentation_stub.ListModels

        embedding_stub = embedding_pb2_grpc.EmbeddingServiceStub(self._embedding)
        self._embed = embedding_stub.Embed
        self._embed_many = embedding_stub.EmbedMany
        self._get_embedding = embedding_stub.GetEmbedding
        self._delete_embedding = embedding_stub.DeleteEmbedding
        self._delete_image = embedding_stub.DeleteImage
        self._delete_tenant = embedding_stub.DeleteTenant

        self._decoder_calls = RetryingCaller(DECODER)
        self._embedding_calls = RetryingCaller(EMBEDDING)
        self._predict_hedge = self._decoder_calls.hedge()
        self._embed_hedge = self._embedding_calls.hedge()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._decoder.close()
        self._embedding.close()

    def segment(
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
        """Segment one object.

        Args:
            image: a file's path, the encoded bytes, a file open for reading, a Pillow image,
                pixels uint8 [height, width, 3] RGB, or a `CachedImage`. Pixels are sent as PNG,
                which takes time at each call: encode once, or use `interact`, for several calls
                on one image.
            points: clicks, in pixels of the oriented image: `Click`, (x, y) or (x, y, label).
            box: a rectangle around the object: `Box` or (x0, y0, x1, y1).
            mask_input: low-res logits of an earlier mask to refine, as in `Prompt`.
            multimask: True for three candidates, False for one mask.
            low_res_logits: whether masks come with their logits.
            clamp: cut a box off at the image's edges instead of refusing one that is partly
                outside, such as a detector's.

        Raises:
            InvalidInput: the image or the prompt is invalid.
            EmbeddingNotCached: a `CachedImage` must be embedded first.
            OSError: the file cannot be read.
        """
        prompt = Prompt(points, box, mask_input, multimask)
        return self.predict(image, [prompt], low_res_logits=low_res_logits, clamp=clamp)

    def predict(
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
        """Answer several prompts on one image. The bytes are uploaded only if the hash is unknown.

        More prompts than 16 are sent as several calls, of which two are in flight at a time. The
        answer's timings are then the sums of all calls.

        Args:
            image: as in `segment`.
            prompts: one prompt for each object, any number.
            low_res_logits: whether masks come with their logits.
            formats: any of "rle", "png", "polygons" and "bits".
            polygon_tolerance: pixels that a polygon may differ from the mask to save corners.
            max_masks: candidates for each prompt, best first; 0 for all.
            clamp: as in `segment`.

        Raises:
            InvalidInput: the image, a prompt or an option is invalid.
            OSError: the file cannot be read.
        """
        hashed = self._hash(image)
        written = write_prompts(prompts, self._size_of(hashed) if clamp else None)
        output = write_output(
            formats=formats,
            low_res_logits=low_res_logits,
            polygon_tolerance=polygon_tolerance,
            max_masks=max_masks,
        )
        deadline = time.monotonic() + self._timeout

        def ask(part: Part) -> Answer:
            request = self._predict_request(hashed, part.prompts, output)
            return _by_hash_then_bytes(partial(self._request_masks, deadline), request, hashed)

        answer = ask_in_parts(written, ask)
        self._last_size = (hashed.image_id, answer.size)
        return answer

    def generate_masks(
        self,
        image: ImageInput,
        options: GridOptions = DEFAULT_GRID,
        *,
        formats: Sequence[MaskFormat] = ("rle",),
        polygon_tolerance: float = 1,
        max_masks: int = 0,
        on_progress: OnProgress | None = None,
    ) -> Everything:
        """Segment everything in an image: ask at a grid of points, keep each region once.

        Takes seconds to minutes: give the client a `timeout` that allows it, as in
        `client.using(timeout=300)`.

        Args:
            image: as in `segment`.
            options: SAM's parameters.
            formats: any of "rle", "png", "polygons" and "bits".
            polygon_tolerance: pixels that a polygon may differ from the mask to save corners.
            max_masks: the masks to return, best first; 0 for all, at most 4,096.
            on_progress: called with the points that are done and those in all.

        Raises:
            InvalidInput: the image or an option is invalid.
            OSError: the file cannot be read.
        """
        output = write_output(
            formats=formats, polygon_tolerance=polygon_tolerance, max_masks=max_masks
        )
        return self._everything(image, options, output, on_progress)

    def propose(
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
        """Find the regions that are left beside those that a person has accepted.

        Args:
            image: as in `segment`.
            accepted: masks of earlier answers with their RLE, polygons, or arrays
                bool [height, width]; at most 1,000.
            options: SAM's parameters; the two thresholds say what is proposed at all, and are 0.5
                and 0.6 by default.
            sureness: when a region may be accepted unseen.
            formats: as in `generate_masks`, likewise the others.
            polygon_tolerance: as in `generate_masks`.
            max_masks: as in `generate_masks`.
            on_progress: as in `generate_masks`.

        Raises:
            InvalidInput: the image, a region or an option is invalid.
            OSError: the file cannot be read.
        """
        output = write_output(
            formats=formats, polygon_tolerance=polygon_tolerance, max_masks=max_masks
        )
        proposals = write_proposals(accepted, sureness)
        return self._everything(image, options, output, on_progress, proposals)

    def find(
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
        """Find every instance of concepts: `client.find("photo.jpg", ["coin", "table"])`.

        Args:
            image: as in `segment`.
            concepts: phrases, or `Concept` with examples or a threshold; at most 16.
            threshold: least score of an instance, 0 to 1; None for the model's own.
            max_overlap: IoU of two masks from which the lower-scored one is left out; 0 for never.
            low_res_logits: whether masks come with their logits, to refine them by `segment`.
            formats: any of "rle", "png", "polygons" and "bits".
            polygon_tolerance: pixels that a polygon may differ from the mask to save corners.
            max_masks: instances of a concept, best first; 0 for all.

        Raises:
            NoConcepts: the model answers points, boxes and masks only.
            InvalidInput: the image, an option, or every concept is invalid. One invalid concept
                among others has its error in its result.
            OSError: the file cannot be read.
        """
        hashed = self._hash(image)
        output = write_output(
            formats=formats,
            low_res_logits=low_res_logits,
            polygon_tolerance=polygon_tolerance,
            max_masks=max_masks,
        )
        written = write_concepts(concepts)
        request = self._find_request(hashed, written, output, threshold, max_overlap)
        return _by_hash_then_bytes(self._request_findings, request, hashed)

    def interact(self, image: ImageInput, *, low_res_logits: bool = False) -> Interaction:
        """Open a stream for one image: `with client.interact("photo.jpg") as photo: ...`.

        Args:
            image: as in `segment`.
            low_res_logits: whether masks come with their logits.

        Raises:
            InvalidInput: the image is invalid.
            OSError: the file cannot be read.
        """
        hashed = self._hash(image)
        opening = self._opening(hashed, write_output(low_res_logits=low_res_logits))
        return _by_hash_then_bytes(self._open_interaction, opening, hashed)

    def embed(self, image: ImageInput) -> EmbedAnswer:
        """Embed an image before its first click.

        Raises:
            InvalidInput: the image is invalid.
            OSError: the file cannot be read.
        """
        hashed = self._hash(image)
        return _by_hash_then_bytes(self._request_embedding, self._embed_request(hashed), hashed)

    def embed_many(
        self, images: Iterable[ImageInput], *, in_flight: int = 16, retries: int = 5
    ) -> Generator[BulkResult]:
        """Embed a data set; yield a result for each image, in any order.

        An invalid image fails alone. Each image is requested by hash first, and equal bytes are
        sent once. To continue an interrupted run, start it again: a cached image costs a lookup.

        Args:
            images: as in `segment`.
            in_flight: images whose bytes may be in memory or in flight. Four times as many images
                are taken from `images` before their results.
            retries: further attempts for an image, and for the stream, after a temporary failure.

        Raises:
            Unavailable: the service stayed away.
            ModelNotFound: the model is unknown.
        """
        start = partial(self._embed_many, metadata=(*self._metadata, *tracing.inject_headers()))
        options = BulkOptions(self._model, in_flight, retries, self._timeout)
        return BulkEmbedding(images, start, self._embed_bytes, options).results()

    def embedding(self, image: ImageInput) -> Embedding:
        """Return the embedding itself, its tensors in fp16. Embeds the image first if necessary.

        Raises:
            InvalidInput: the image is invalid.
            OSError: the file cannot be read.
        """
        hashed = self._hash(image)
        try:
            return self._fetch_tensors(self._tensors_request(hashed))
        except EmbeddingNotCached as problem:
            request = self._embed_request(hashed)
            add_bytes(request, hashed, problem)
            answer = self._request_embedding(request)
            return self._fetch_tensors(self._tensors_request(hashed, answer.model_version))

    def delete(self, image: ImageInput) -> bool:
        """Delete an image's embedding from the cache. Returns whether there was one.

        Decoders may keep a prepared copy in memory until other images need the room.

        Raises:
            InvalidInput: the image's id is invalid.
            Unavailable: the cache did not answer.
        """
        response = self._embedding_calls.call(
            self._delete_embedding,
            self._delete_request(self._hash(image).image_id),
            timeout=self._timeout,
            metadata=self._metadata,
        )
        return bool(response.deleted)

    def delete_image(self, image: ImageInput) -> int:
        """Delete every trace of an image: its embeddings of all models, and what decoders keep.

        Returns:
            How many embeddings were cached.

        Raises:
            InvalidInput: the image's id is invalid.
            Unavailable: the cache did not answer; try again.
        """
        response = self._embedding_calls.call(
            self._delete_image,
            self._delete_image_request(self._hash(image).image_id),
            timeout=self._timeout,
            metadata=self._metadata,
        )
        return int(response.deleted)

    def delete_tenant(self, tenant: str) -> int:
        """Delete every trace of a tenant; name this client's own, to confirm.

        Returns:
            How many embeddings were cached.

        Raises:
            PermissionDenied: it is another tenant.
            Unavailable: the cache did not answer; try again.
        """
        response = self._embedding_calls.call(
            self._delete_tenant,
            self._delete_tenant_request(tenant),
            timeout=self._timeout,
            metadata=self._metadata,
        )
        return int(response.deleted)

    def models(self) -> list[Model]:
        """List the models that the decoder serves; the first is the default."""
        response = self._decoder_calls.call(
            self._list_models,
            segmentation_pb2.ListModelsRequest(),
            timeout=self._timeout,
            metadata=self._metadata,
        )
        return read_models(response)

    def _hash(self, image: ImageInput) -> HashedImage:
        """Read and hash an image. Repeated clicks on the same bytes object reuse its hash."""
        self._last_image = hashed_image(image, self._last_image)
        return self._last_image

    def _size_of(self, image: HashedImage) -> Size:
        """Ask the decoder for an image's size, which takes its embedding. The last one is known."""
        known = self._last_size
        if known is None or known[0] != image.image_id:
            known_by = CachedImage(image.image_id) if image.data is None else image.data
            with self.interact(known_by) as stream:
                known = (image.image_id, stream.image.size)
            self._last_size = known
        return known[1]

    def _request_masks(self, deadline: float, request: segmentation_pb2.PredictRequest) -> Answer:
        with tracing.span("Predict", tracing.Kind.CLIENT):
            response = self._decoder_calls.call(
                self._predict,
                request,
                timeout=max(deadline - time.monotonic(), 0.0),
                metadata=self._placed(request),
                hedge=None if request.data else self._predict_hedge,
                prompts=max(len(request.prompts), 1),
            )

            return read_answer(response)

    def _request_findings(self, request: segmentation_pb2.FindRequest) -> Findings:
        with tracing.span("Find", tracing.Kind.CLIENT):
            response = self._decoder_calls.call(
                self._find, request, timeout=self._timeout, metadata=self._placed(request)
            )
            return read_findings(response)

    def _everything(
        self,
        image: ImageInput,
        options: GridOptions,
        output: segmentation_pb2.OutputOptions,
        on_progress: OnProgress | None,
        proposals: segmentation_pb2.ProposalOptions | None = None,
    ) -> Everything:
        hashed = self._hash(image)
        request = self._everything_request(hashed, options, output, proposals)
        call = partial(self._request_everything, on_progress)
        return _by_hash_then_bytes(call, request, hashed)

    def _request_everything(
        self, on_progress: OnProgress | None, request: segmentation_pb2.GenerateMasksRequest
    ) -> Everything:
        method = for_attempts(self._generate_masks)

        def read(request: segmentation_pb2.GenerateMasksRequest, **options: Any) -> Everything:
            reader = EverythingReader(on_progress)
            for message in method(request, **options):
                reader.read(message)
            return reader.everything()

        with tracing.span("GenerateMasks", tracing.Kind.CLIENT):
            everything: Everything = self._decoder_calls.call(
                read, request, timeout=self._timeout, metadata=self._placed(request)
            )
            return everything

    def _open_interaction(self, opening: segmentation_pb2.InteractRequest.Open) -> Interaction:
        with tracing.span("Interact.open", tracing.Kind.CLIENT):
            metadata = (*self._placed(opening), *tracing.inject_headers())
            start = partial(for_attempts(self._interact), metadata=metadata)
            for pause in OPENING_PAUSES:
                try:
                    return Interaction(start, opening, self._timeout)
                except (Unavailable, Overloaded):
                    time.sleep(pause)
            return Interaction(start, opening, self._timeout)

    def _request_embedding(self, request: embedding_pb2.EmbedRequest) -> EmbedAnswer:
        with tracing.span("Embed", tracing.Kind.CLIENT):
            response = self._embedding_calls.call(
                self._embed,
                request,
                timeout=self._timeout,
                metadata=self._metadata,
                hedge=None if request.data else self._embed_hedge,
            )

            return read_embed_answer(response)

    def _embed_bytes(self, data: bytes, expected_image_id: str = "") -> EmbedAnswer:
        return self._request_embedding(
            embedding_pb2.EmbedRequest(
                data=data, model=self._model, expected_image_id=expected_image_id
            )
        )

    def _fetch_tensors(self, request: embedding_pb2.GetEmbeddingRequest) -> Embedding:
        reader = TensorReader()
        try:
            with tracing.span("GetEmbedding", tracing.Kind.CLIENT):
                metadata = (*self._metadata, *tracing.inject_headers())
                for message in self._get_embedding(
                    request, timeout=self._timeout, metadata=metadata
                ):
                    reader.read(message)
        except grpc.RpcError as problem:
            raise error_of(problem, EMBEDDING) from problem
        return reader.embedding()


def _by_hash_then_bytes(
    call: Callable[[Request], Result], request: Request, image: HashedImage
) -> Result:
    """Make a call that names the image by hash; if the image is unknown, again with its bytes."""
    try:
        return call(request)
    except EmbeddingNotCached as problem:
        add_bytes(request, image, problem)
        return call(request)
