"""Who answers concepts: the protocol that each way of finding them implements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from samserve.core.cache_status import CacheStatus
from samserve.core.concept import Concept
from samserve.core.detections import Detections
from samserve.core.embedding import EmbeddingHeader
from samserve.core.errors import NoConcepts, SamserveError
from samserve.core.image_request import ImageRequest
from samserve.decoder.registry import ServedModel
from samserve.infra.stages import StageClock


@dataclass(frozen=True, slots=True)
class ConceptQuery:
    """Concepts to look for on one image.

    Attributes:
        image: The image, as its caller names it.
        image_id: SHA-256 of its bytes.
        model: The request's model, resolved.
        concepts: By their number in the request, which names them in errors. They have passed
            `check_concept` and the head's own `check`.
    """

    image: ImageRequest
    image_id: str
    model: ServedModel
    concepts: Mapping[int, Concept]


@dataclass(frozen=True, slots=True)
class FoundConcept:
    """What was found of one concept, and where that came from."""

    detections: Detections
    status: CacheStatus


@dataclass(frozen=True, slots=True)
class ConceptAnswer:
    """The answer to a query.

    Attributes:
        image: Size of the image, and the version that embedded it.
        status: Where its embedding came from.
        results: By the concepts' numbers. One that failed alone is its error.
    """

    image: EmbeddingHeader
    status: CacheStatus
    results: Mapping[int, FoundConcept | SamserveError]


class ConceptHead(Protocol):
    """Finds the instances of concepts, for one model."""

    @property
    def threshold(self) -> float:
        """Least score of an instance, unless a request names another."""

    def check(self, concept: Concept, field: str) -> None:
        """Check what depends on the model, such as the number of tokens. Raises InvalidInput."""

    async def find(self, query: ConceptQuery, clock: StageClock) -> ConceptAnswer:
        """Find the concepts; the clock receives the stages.

        Raises:
            EmbeddingNotCached: The image must be embedded, and its bytes were not sent.
            ModelVersionMismatch: The request names a version that is not served.
            InvalidInput: The image is invalid.
            Overloaded: A queue is full.
            Unavailable: A service that the answer needs is down.
            DeadlinePassed: It took too long.
        """


class ConceptHeads:
    """The heads of the models that know concepts, by the models' names."""

    def __init__(self, heads: Mapping[str, ConceptHead]) -> None:
        self._heads = heads

    def __contains__(self, model: ServedModel) -> bool:
        """Whether the model answers concepts."""
        return model.name in self._heads

    def of(self, model: ServedModel) -> ConceptHead:
        """Return the model's head. Raises NoConcepts."""
        head = self._heads.get(model.name)
        if head is None:
            raise NoConcepts(model.name, sorted(self._heads))
        return head
