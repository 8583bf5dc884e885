"""A concept head behind the embedding service: its answers are cached, so Redis is asked first."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import lru_cache
from typing import Protocol

from samserve.bundles.bundle import VOCABULARY, Bundle, ConceptFacts
from samserve.bundles.files import BrokenBundle
from samserve.codec.packed import DamagedEmbedding, unpack
from samserve.core.cache_status import CacheStatus
from samserve.core.concept import Concept, TokenizedConcept
from samserve.core.detections import DetectionsContract, from_tensors
from samserve.core.embedding import Contract, Embedding, EmbeddingHeader, SizeLimits
from samserve.core.errors import (
    DeadlinePassed,
    EmbeddingNotCached,
    InvalidInput,
    ModelVersionMismatch,
    Overloaded,
    SamserveError,
    Unavailable,
)
from samserve.core.image_request import ImageRequest
from samserve.core.tokens import BadVocabulary, Vocabulary, unpack_vocabulary
from samserve.decoder.concept_reader import RemoteConcepts
from samserve.decoder.concepts.head import ConceptAnswer, ConceptQuery, FoundConcept
from samserve.decoder.registry import ServedModel
from samserve.infra.cache import CacheKey, concept_key
from samserve.infra.metrics import CONCEPTS
from samserve.infra.stages import StageClock

VISUAL = "visual"  # the phrase that stands for examples without a text
TEMPORARY = (DeadlinePassed, Overloaded, Unavailable)  # cached concepts are answered all the same


class ConceptService(Protocol):
    """The embedding service."""

    async def find_concepts(
        self, request: ImageRequest, concepts: Mapping[int, TokenizedConcept]
    ) -> RemoteConcepts: ...


class Cache(Protocol):
    """The entries that all services share, read only."""

    async def get(self, key: CacheKey, contract: Contract) -> Embedding | None: ...


class RemoteHead:
    """Answers concepts with a model's own head, which Triton runs behind the embedding service."""

    def __init__(
        self, bundle: Bundle, cache: Cache, service: ConceptService, limits: SizeLimits
    ) -> None:
        """Read the vocabulary.

        Args:
            bundle: Of a model that knows concepts.
            cache: Has what was found before.
            service: Finds the rest.
            limits: On the size of an image whose entries are used.

        Raises:
            BrokenBundle: The vocabulary is damaged, or the bundle has no concept head.
        """
        if bundle.concepts is None:
            raise BrokenBundle(f"{bundle.path} has no concept head")
        self._facts: ConceptFacts = bundle.concepts
        self._contract = DetectionsContract(self._facts.top, bundle.low_res, limits)
        self._cache = cache
        self._service = service
        self._model_version = bundle.model_version
        self._head_version = self._facts.version  # of the last answer; until then the bundle's
        try:
            vocabulary: Vocabulary = unpack_vocabulary((bundle.path / VOCABULARY).read_bytes())
        except BadVocabulary as problem:
            raise BrokenBundle(f"damaged {bundle.path / VOCABULARY}: {problem}") from problem
        self._encode = lru_cache(maxsize=4096)(vocabulary.encode)

    @property
    def threshold(self) -> float:
        """Least score of an instance, unless a request names another."""
        return self._facts.threshold

    def check(self, concept: Concept, field: str) -> None:
        """Check the number of tokens. Raises InvalidInput."""
        count, limit = len(self._tokens(concept)) - 2, self._facts.tokens - 2
        if count > limit:
            raise InvalidInput(
                f"{field}.text",
                f"{field}.text: {count} tokens; the limit is {limit}: use a short noun phrase",
            )

    async def find(self, query: ConceptQuery, clock: StageClock) -> ConceptAnswer:
        """Find the concepts: in the cache, or by the embedding service.

        While that is away, concepts that are cached are answered, and the others fail alone. If all
        fail, the call does.

        Raises:
            EmbeddingNotCached, ModelVersionMismatch, InvalidInput, Overloaded, Unavailable,
            DeadlinePassed: See `ConceptHead.find`.
        """
        concepts = {
            number: TokenizedConcept(self._tokens(each), each.examples)
            for number, each in query.concepts.items()
        }
        with clock.stage("concepts"):
            cached = await self._look_up(query, concepts)
            results: dict[int, FoundConcept | SamserveError] = {
                number: FoundConcept(from_tensors(entry.tensors, entry.size), CacheStatus.HIT)
                for number, entry in cached.items()
            }
            missing = {n: each for n, each in concepts.items() if n not in cached}
            image = next(iter(cached.values()), None)
            answer: RemoteConcepts | None = None
            if missing:
                try:
                    answer = await self._ask(query, missing)
                    results |= await asyncio.to_thread(self._read, answer)
                except TEMPORARY as problem:
                    results |= dict.fromkeys(missing, problem)

        failures = [each for each in results.values() if isinstance(each, TEMPORARY)]
        if len(failures) == len(results):
            raise failures[0]

        _count(query.model, results)
        if answer is not None:
            clock.add({f"concepts.{stage}": ms for stage, ms in answer.remote_ms.items()})
            return ConceptAnswer(answer.image, answer.status, results)
        if image is None:
            raise EmbeddingNotCached(query.image_id)
        header = EmbeddingHeader(self._version(query), image.size)
        return ConceptAnswer(header, CacheStatus.HIT, results)

    def _tokens(self, concept: Concept) -> tuple[int, ...]:
        text = " ".join(concept.text.split())
        return self._encode(text or VISUAL)

    def _version(self, query: ConceptQuery) -> str:
        return query.image.model_version or self._model_version

    async def _look_up(
        self, query: ConceptQuery, concepts: Mapping[int, TokenizedConcept]
    ) -> dict[int, Embedding]:
        """Return the entries that are in the cache."""
        key = CacheKey(query.image.owner, self._version(query), query.image_id)
        entries = await asyncio.gather(
            *(
                self._cache.get(concept_key(key, self._head_version, each.digest), self._contract)
                for each in concepts.values()
            )
        )
        found = zip(concepts, entries, strict=True)
        return {number: entry for number, entry in found if entry is not None}

    async def _ask(
        self, query: ConceptQuery, concepts: Mapping[int, TokenizedConcept]
    ) -> RemoteConcepts:
        """Have concepts found by the embedding service, and remember which versions it runs."""
        request = ImageRequest(
            query.image.owner,
            query.model.name,
            query.image.data,
            query.image_id,
            expected_image_id=query.image_id if query.image.data is not None else "",
            model_version=query.image.model_version,
        )
        answer = await self._service.find_concepts(request, concepts)
        version = answer.image.model_version
        if version not in query.model.versions:
            raise ModelVersionMismatch(version, query.model.model_version)
        self._model_version, self._head_version = version, answer.head_version
        return answer

    def _read(self, answer: RemoteConcepts) -> dict[int, FoundConcept | SamserveError]:
        """Unpack the entries of an answer. Raises Unavailable."""
        results: dict[int, FoundConcept | SamserveError] = {}
        for number, result in answer.results.items():
            if isinstance(result, SamserveError):
                results[number] = result
                continue
            packed, status = result
            try:
                entry = unpack(packed, self._contract)
            except DamagedEmbedding as problem:
                raise Unavailable(
                    f"the embedding service sent damaged data: {problem}"
                ) from problem
            results[number] = FoundConcept(from_tensors(entry.tensors, entry.size), status)
        return results


def _count(model: ServedModel, results: Mapping[int, FoundConcept | SamserveError]) -> None:
    for result in results.values():
        if isinstance(result, FoundConcept):
            CONCEPTS.labels(model.name, result.status.value).inc()
