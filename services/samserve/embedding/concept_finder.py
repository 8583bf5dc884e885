"""Finds concepts on images, each of them once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Protocol

from samserve.codec.packed import pack
from samserve.codec.tensors import Coding
from samserve.core.arrays import Halves
from samserve.core.cache_status import CacheStatus
from samserve.core.concept import TokenizedConcept, check_examples_inside
from samserve.core.detections import Detections, DetectionsContract, to_tensors
from samserve.core.embedding import Contract, Embedding, EmbeddingHeader, SizeLimits
from samserve.core.errors import DeadlinePassed, InvalidInput, NoConcepts, SamserveError
from samserve.core.geometry import Size
from samserve.core.image_request import ImageRequest
from samserve.core.limits import MAX_CONCEPTS, MAX_EXAMPLES, MAX_SEARCHES, check_count
from samserve.embedding.admission import EncodeSlots, Priority
from samserve.embedding.claims import ReplicaClaims
from samserve.embedding.concept_head import Phrase
from samserve.embedding.embedder import Embedder, Job
from samserve.embedding.encoder import ConceptSpec
from samserve.infra.cache import CacheKey, concept_key, phrase_key
from samserve.infra.deletions import Generation
from samserve.infra.pool import run_in_pool
from samserve.infra.stages import StageClock

TEXT = "text"  # name of the tensor in a phrase's entry
NO_IMAGE = Size(1, 1)  # size that a phrase's entry states
CODING: Coding = "exact"  # of phrases and of what is found: little data, and nothing is lost


class Head(Protocol):
    """Runs text encoders and concept heads."""

    async def embed_text(self, model: str, spec: ConceptSpec, tokens: Sequence[int]) -> Halves: ...
    async def find(
        self, model: str, spec: ConceptSpec, trunk: Halves, size: Size, phrases: Sequence[Phrase]
    ) -> list[Detections]: ...


class Cache(Protocol):
    """Stores entries."""

    async def get(self, key: CacheKey, contract: Contract) -> Embedding | None: ...
    async def generation(self, key: CacheKey) -> Generation | None: ...
    async def put(
        self, key: CacheKey, embedding: Embedding, generation: Generation | None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class ConceptEntry:
    """What was found of one concept, packed as it is cached, and where it came from."""

    packed: bytes
    status: CacheStatus


@dataclass(frozen=True, slots=True)
class ConceptResults:
    """The answer to a request.

    Attributes:
        image_id: Of the image.
        image: Its size, and the version that embedded it.
        status: Where its embedding came from.
        head_version: Of the concept head.
        results: For each concept its entry, or why it failed.
    """

    image_id: str
    image: EmbeddingHeader
    status: CacheStatus
    head_version: str
    results: list[ConceptEntry | SamserveError]


@dataclass(frozen=True, slots=True)
class _Search:
    """Concepts to find on one image, by their numbers in the request."""

    job: Job
    spec: ConceptSpec
    concepts: Mapping[int, TokenizedConcept]

    def key(self, number: int) -> CacheKey:
        digest = self.concepts[number].digest
        return concept_key(self.job.key, self.spec.version, digest)

    def only(self, numbers: Sequence[int]) -> _Search:
        chosen = {number: self.concepts[number] for number in numbers}
        return _Search(self.job, self.spec, chosen)


class ConceptFinder:
    """Looks concepts up in the cache, and has the head find those that are missing.

    Concepts of one call that are missing go to the head together, since it does part of its work
    once for all of them. Two calls that want the same concept at once share its result.
    """

    def __init__(
        self,
        cache: Cache,
        claims: ReplicaClaims,
        slots: EncodeSlots,
        embedder: Embedder,
        head: Head,
        *,
        pool: Executor,
        limits: SizeLimits,
    ) -> None:
        """Create a finder.

        Args:
            cache: Shared by all replicas.
            claims: Shared by all replicas, like the cache.
            slots: Bound how many calls of the head are in progress; images have slots of their own.
            embedder: Finds trunks, and encodes images.
            head: Runs the models.
            pool: Threads that pack.
            limits: On the size of an image whose entries are used.
        """
        self._cache = cache
        self._claims = claims
        self._slots = slots
        self._embedder = embedder
        self._head = head
        self._pool = pool
        self._limits = limits
        self._places = asyncio.Semaphore(MAX_SEARCHES)
        self._flights: dict[CacheKey, asyncio.Future[ConceptEntry | SamserveError]] = {}

    async def find(
        self,
        request: ImageRequest,
        concepts: Sequence[TokenizedConcept],
        clock: StageClock,
        *,
        deadline: float = math.inf,
    ) -> ConceptResults:
        """Find concepts on an image; an invalid one fails alone.

        Args:
            request: The image; without its bytes it must have been embedded before.
            concepts: What to look for.
            clock: Receives the stages.
            deadline: When the caller stops waiting, by the event loop's clock in seconds.

        Raises:
            NoConcepts: The model knows none.
            InvalidInput, ModelNotFound, ModelVersionMismatch, EmbeddingNotCached, Overloaded,
            Unavailable, DeadlinePassed: As `Embedder.embed` does.
        """
        try:
            async with asyncio.timeout_at(deadline if deadline < math.inf else None):
                async with self._places:  # what is found takes memory
                    return await self._find(request, concepts, clock, deadline)
        except TimeoutError as late:
            raise DeadlinePassed(clock.latest) from late

    async def _find(
        self,
        request: ImageRequest,
        concepts: Sequence[TokenizedConcept],
        clock: StageClock,
        deadline: float,
    ) -> ConceptResults:
        # 1. Check the request.
        job = await self._embedder.identify(request, clock, deadline=deadline)
        spec = job.spec.concepts
        if spec is None:
            raise NoConcepts(job.spec.name, [])
        check_count(len(concepts), MAX_CONCEPTS, "concepts", "concepts in one call")
        results: dict[int, ConceptEntry | SamserveError] = {}
        valid: dict[int, TokenizedConcept] = {}
        for number, concept in enumerate(concepts):
            try:
                check_tokens(concept, spec, f"concepts[{number}]")
                valid[number] = concept
            except InvalidInput as problem:
                results[number] = problem
        if not valid:
            problems = (each for each in results.values() if isinstance(each, InvalidInput))
            raise next(problems, InvalidInput("concepts", "no concept given"))
        search = _Search(job, spec, valid)

        # 2. Look in the cache.
        with clock.stage("lookup"):
            found = await self._look_up(search)
        entries = {n: ConceptEntry(each.packed, CacheStatus.HIT) for n, each in found.items()}
        results.update(entries)
        missing = [number for number in search.concepts if number not in found]
        if not missing:
            header = next(iter(found.values()))
            image = EmbeddingHeader(job.spec.model_version, header.size)
            return self._answer(job, image, CacheStatus.HIT, spec, results)

        # 3. Find the others.
        trunk = await self._embedder.trunk(job)
        image = EmbeddingHeader(job.spec.model_version, trunk.trunk.size)
        inside = []
        for number in missing:
            try:
                check_examples_inside(valid[number], image.size, f"concepts[{number}]")
                inside.append(number)
            except InvalidInput as problem:
                results[number] = problem
        results.update(await self._share(search.only(inside), trunk.trunk, clock))
        return self._answer(job, image, trunk.status, spec, results)

    def _answer(
        self,
        job: Job,
        image: EmbeddingHeader,
        status: CacheStatus,
        spec: ConceptSpec,
        results: Mapping[int, ConceptEntry | SamserveError],
    ) -> ConceptResults:
        ordered = [results[number] for number in range(len(results))]
        return ConceptResults(job.key.image_id, image, status, spec.version, ordered)

    async def _look_up(self, search: _Search) -> dict[int, Embedding]:
        """Return the entries that are in the cache."""
        contract = DetectionsContract(search.spec.top, search.spec.side, self._limits)
        numbers = list(search.concepts)
        entries = await asyncio.gather(
            *(self._cache.get(search.key(number), contract) for number in numbers)
        )
        found = zip(numbers, entries, strict=True)
        return {number: entry for number, entry in found if entry is not None}

    async def _share(
        self, search: _Search, trunk: Embedding, clock: StageClock
    ) -> dict[int, ConceptEntry | SamserveError]:
        """Find the concepts that no other call in this process is finding, and wait for all."""
        waiting = {number: self._flights.get(search.key(number)) for number in search.concepts}
        keys: dict[CacheKey, int] = {}
        for number, flight in waiting.items():
            if flight is None:
                keys.setdefault(search.key(number), number)  # once, also if it is asked twice

        own = {key: asyncio.get_running_loop().create_future() for key in keys}
        self._flights.update(own)
        task = asyncio.ensure_future(self._run(search.only(list(keys.values())), trunk, clock, own))
        results: dict[int, ConceptEntry | SamserveError] = {}
        try:
            for number, flight in waiting.items():
                joined = flight is not None or keys[search.key(number)] != number
                entry = await asyncio.shield(flight or own[search.key(number)])
                if joined and isinstance(entry, ConceptEntry):
                    entry = ConceptEntry(entry.packed, CacheStatus.COALESCED)
                results[number] = entry
        finally:
            # The work goes on although its caller has left: others may wait, and it is cached.
            _keep(task)
        return results

    async def _run(
        self,
        search: _Search,
        trunk: Embedding,
        clock: StageClock,
        flights: Mapping[CacheKey, asyncio.Future[ConceptEntry | SamserveError]],
    ) -> None:
        """Fulfil the flights, each with its entry or an error."""
        results: Mapping[int, ConceptEntry | SamserveError] = {}
        failure: Exception = RuntimeError("the search ended early")
        try:
            if search.concepts:
                results = await self._claim_and_find(search, trunk, clock)
        except Exception as problem:
            failure = problem
        finally:
            numbers = {search.key(number): number for number in search.concepts}
            for key, flight in flights.items():
                del self._flights[key]
                result = results.get(numbers[key], failure)
                if isinstance(result, ConceptEntry | SamserveError):
                    flight.set_result(result)
                else:
                    flight.set_exception(result)

    async def _claim_and_find(
        self, search: _Search, trunk: Embedding, clock: StageClock
    ) -> dict[int, ConceptEntry | SamserveError]:
        """Find the concepts that no other replica is finding."""
        async with AsyncExitStack() as stack:
            # Claims are taken in one order everywhere, so that no two replicas block each other.
            stored = []
            with clock.stage("turn"):
                for number in sorted(search.concepts, key=lambda n: str(search.key(n))):
                    claim = await stack.enter_async_context(self._claims.claim(search.key(number)))
                    if not await claim.acquire():
                        stored.append(number)

            found = await self._look_up(search.only(stored)) if stored else {}
            results: dict[int, ConceptEntry | SamserveError] = {
                n: ConceptEntry(each.packed, CacheStatus.COALESCED) for n, each in found.items()
            }
            left = [number for number in search.concepts if number not in results]
            if left:
                results.update(await self._compute(search.only(left), trunk, clock))
            return results

    async def _compute(
        self, search: _Search, trunk: Embedding, clock: StageClock
    ) -> dict[int, ConceptEntry | SamserveError]:
        """Run the head, and store what it finds."""
        generation = await self._cache.generation(search.job.key)
        with clock.stage("queue"):
            slot = await self._slots.slot(Priority.INTERACTIVE)
        with slot:
            with clock.stage("phrase"):
                texts = [self._phrase(search, each) for each in search.concepts.values()]
                phrases = await asyncio.gather(*texts)
            with clock.stage("concepts"):
                (tensor,) = trunk.tensors.values()
                model = search.job.spec.name
                found = await self._head.find(model, search.spec, tensor, trunk.size, phrases)

        with clock.stage("store"):
            entries = await asyncio.gather(
                *(
                    self._store(search.key(number), each, trunk.size, generation)
                    for number, each in zip(search.concepts, found, strict=True)
                )
            )
        return dict(zip(search.concepts, entries, strict=True))

    async def _phrase(self, search: _Search, concept: TokenizedConcept) -> Phrase:
        """Return a concept as the head takes it; its text is embedded unless it is cached."""
        head = search.spec.version
        key = phrase_key(search.job.key.owner, head, concept.text_digest)
        entry = await self._cache.get(key, _PhraseContract(len(concept.tokens)))
        if entry is not None:
            return Phrase(entry.tensors[TEXT], concept.examples)

        generation = await self._cache.generation(key)
        name = search.job.spec.name
        features = await self._head.embed_text(name, search.spec, concept.tokens)
        await self._put(key, Embedding(head, NO_IMAGE, {TEXT: features}), generation)
        return Phrase(features, concept.examples)

    async def _store(
        self, key: CacheKey, found: Detections, size: Size, generation: Generation | None
    ) -> ConceptEntry:
        entry = Embedding(key.model_version, size, to_tensors(found, size))
        return ConceptEntry(await self._put(key, entry, generation), CacheStatus.MISS)

    async def _put(self, key: CacheKey, entry: Embedding, generation: Generation | None) -> bytes:
        packed = await run_in_pool(self._pool, pack, entry, CODING)
        stored = Embedding(entry.model_version, entry.size, entry.tensors, packed)
        await self._cache.put(key, stored, generation)
        return packed


@dataclass(frozen=True, slots=True)
class _PhraseContract:
    """What a phrase's entry must be like: one row for each token."""

    tokens: int

    def problem(self, size: Size, shapes: Mapping[str, tuple[int, ...]]) -> str:
        shape = shapes.get(TEXT, ())
        if len(shapes) != 1 or len(shape) != 2 or shape[0] != self.tokens:
            return f"tensors {str(dict(shapes))[:100]}; expected {self.tokens} rows of {TEXT!r}"
        return ""


def check_tokens(concept: TokenizedConcept, spec: ConceptSpec, field: str) -> None:
    """Check the size of a concept, and its ids. Raises InvalidInput."""
    check_count(len(concept.tokens), spec.tokens, f"{field}.tokens", "tokens")
    check_count(len(concept.examples), MAX_EXAMPLES, f"{field}.examples", "examples")
    if not concept.tokens or not all(0 <= token < spec.words for token in concept.tokens):
        raise InvalidInput(
            f"{field}.tokens",
            f"{field}.tokens: expected ids from 0 to {spec.words - 1:,}, with begin and end",
        )


_running: set[asyncio.Future[None]] = set()  # a task without a reference may be garbage-collected


def _keep(task: asyncio.Future[None]) -> None:
    if not task.done():
        _running.add(task)
        task.add_done_callback(_running.discard)
