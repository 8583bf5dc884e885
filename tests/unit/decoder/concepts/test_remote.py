"""A head behind the embedding service, over a fake service and a fake cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeCache
from samserve.bundles.bundle import VOCABULARY, Bundle, ConceptFacts, load_bundle
from samserve.bundles.files import BrokenBundle
from samserve.bundles.names import SHIPPED
from samserve.codec.packed import pack
from samserve.core.cache_status import CacheStatus
from samserve.core.concept import Concept, Example, TokenizedConcept
from samserve.core.detections import Detections, to_tensors
from samserve.core.embedding import Embedding, EmbeddingHeader, SizeLimits
from samserve.core.errors import (
    EmbeddingNotCached,
    InvalidInput,
    ModelVersionMismatch,
    SamserveError,
    Unavailable,
)
from samserve.core.geometry import Size
from samserve.core.image_request import ImageRequest
from samserve.core.tokens import Vocabulary, pack_vocabulary
from samserve.decoder.concept_reader import RemoteConcepts
from samserve.decoder.concepts.head import ConceptAnswer, ConceptQuery, FoundConcept
from samserve.decoder.concepts.remote import RemoteHead
from samserve.decoder.registry import ServedModel
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.threads import Threads
from samserve.infra.cache import CacheKey, concept_key
from samserve.infra.stages import StageClock

MERGES = [("c", "o"), ("i", "n</w>"), ("co", "in</w>")]
SIZE = Size(320, 200)
ID = "ab" * 32
FOUND = Detections(
    presence=0.9,
    scores=np.array([0.8, 0.3], np.float32),
    boxes=np.array([[1, 2, 30, 40], [5, 6, 70, 80]], np.float32),
    logits=np.ones((2, 256, 256), np.float16),
)


class FakeService:
    """Finds the same of every concept."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.asked: list[tuple[ImageRequest, Mapping[int, TokenizedConcept]]] = []
        self.failure: SamserveError | None = None
        self.damaged = False

    async def find_concepts(
        self, request: ImageRequest, concepts: Mapping[int, TokenizedConcept]
    ) -> RemoteConcepts:
        self.asked.append((request, concepts))
        if self.failure is not None:
            raise self.failure
        packed = b"damaged" if self.damaged else pack(entry("head-2"), "exact")
        results = dict.fromkeys(concepts, (packed, CacheStatus.MISS))
        header = EmbeddingHeader(self.version, SIZE)
        return RemoteConcepts(header, CacheStatus.HIT, "head-2", results, {"phrase": 1.0})


def entry(head: str) -> Embedding:
    return Embedding(head, SIZE, to_tensors(FOUND, SIZE))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("bundle")
    (path / VOCABULARY).write_bytes(pack_vocabulary(MERGES))
    facts = ConceptFacts("head-1", top=50, tokens=8, words=517, width=4, threshold=0.5)
    return replace(load_bundle(SHIPPED / "nano"), path=path, concepts=facts)


@pytest.fixture(scope="module")
def model() -> ServedModel:
    decoder = MaskDecoder(load_bundle(SHIPPED / "nano"), Threads(1))
    return ServedModel(decoder, decoder.bundle.versions)


class Head:
    """A head with its parts at hand."""

    def __init__(self, bundle: Bundle, model: ServedModel) -> None:
        self.cache, self.service = FakeCache(), FakeService(bundle.model_version)
        self.head = RemoteHead(bundle, self.cache, self.service, SizeLimits())
        self.model = model

    def know(self, text: str, head: str = "head-1") -> None:
        tokens = Vocabulary(MERGES).encode(text)
        image = CacheKey("public", self.model.model_version, ID)
        key = concept_key(image, head, TokenizedConcept(tokens).digest)
        self.cache.entries[key] = entry(head)

    async def find(self, *texts: str, **image: object) -> ConceptAnswer:
        request = replace(ImageRequest("public", "nano", None, ID), **image)
        concepts = {2 * index: Concept(text) for index, text in enumerate(texts)}
        return await self.head.find(ConceptQuery(request, ID, self.model, concepts), StageClock())


@pytest.fixture
def head(bundle: Bundle, model: ServedModel) -> Head:
    return Head(bundle, model)


async def test_what_is_cached_is_not_asked_for(head: Head) -> None:
    head.know("coin")
    answer = await head.find(" COIN ")
    assert head.service.asked == []
    assert (answer.image.size, answer.status) == (SIZE, CacheStatus.HIT)
    found = answer.results[0]
    assert isinstance(found, FoundConcept)
    assert found.status is CacheStatus.HIT
    assert found.detections.scores == pytest.approx(FOUND.scores, abs=1e-6)
    assert np.abs(found.detections.boxes - FOUND.boxes).max() < 1e-3


async def test_only_the_others_are_asked_for_by_their_numbers(head: Head) -> None:
    head.know("coin")
    answer = await head.find("coin", "cup", data=b"image")
    ((request, concepts),) = head.service.asked
    assert list(concepts) == [2]
    assert concepts[2].tokens == Vocabulary(MERGES).encode("cup")
    assert (request.data, request.expected_image_id) == (b"image", ID)
    statuses = [each.status for each in answer.results.values() if isinstance(each, FoundConcept)]
    assert statuses == [CacheStatus.HIT, CacheStatus.MISS]


async def test_a_new_version_of_the_head_is_looked_for_once_it_is_known(head: Head) -> None:
    head.know("coin", "head-2")
    await head.find("coin")
    assert len(head.service.asked) == 1
    await head.find("coin")
    assert len(head.service.asked) == 1


async def test_while_the_service_is_away_cached_concepts_are_answered(head: Head) -> None:
    head.know("coin")
    head.service.failure = Unavailable("away")
    answer = await head.find("coin", "cup")
    assert isinstance(answer.results[0], FoundConcept)
    assert answer.results[2] is head.service.failure
    with pytest.raises(Unavailable):
        await head.find("cup")


async def test_an_unknown_image_is_told_as_such_though_a_concept_is_cached(head: Head) -> None:
    head.know("coin")
    head.service.failure = EmbeddingNotCached(ID)
    with pytest.raises(EmbeddingNotCached):
        await head.find("coin", "cup")


async def test_a_damaged_answer_or_one_of_another_model_is_not_used(head: Head) -> None:
    head.service.damaged = True
    with pytest.raises(Unavailable, match="damaged"):
        await head.find("cup")
    head.service.damaged, head.service.version = False, "other-1"
    with pytest.raises(ModelVersionMismatch):
        await head.find("cup")


def test_a_phrase_of_too_many_tokens_is_refused_with_the_count(head: Head) -> None:
    head.head.check(Concept("coin " * 6), "concepts[0]")
    with pytest.raises(InvalidInput) as caught:
        head.head.check(Concept("coin " * 7), "concepts[0]")
    assert caught.value.field == "concepts[0].text"
    assert "7 tokens; the limit is 6" in str(caught.value)


async def test_examples_without_a_text_ask_for_what_is_visible(head: Head) -> None:
    concept = Concept("", (Example((1, 1, 9, 9)),))
    request = ImageRequest("public", "nano", None, ID)
    query = ConceptQuery(request, ID, head.model, {0: concept})
    await head.head.find(query, StageClock())
    ((_, concepts),) = head.service.asked
    assert concepts[0].tokens == Vocabulary(MERGES).encode("visual")
    assert concepts[0].examples == concept.examples


def test_a_bundle_without_a_head_or_with_a_damaged_vocabulary_is_refused(
    bundle: Bundle, tmp_path: Path
) -> None:
    service = FakeService("v")
    with pytest.raises(BrokenBundle, match="no concept head"):
        RemoteHead(replace(bundle, concepts=None), FakeCache(), service, SizeLimits())
    (tmp_path / VOCABULARY).write_bytes(b"one two three")
    with pytest.raises(BrokenBundle, match="damaged"):
        RemoteHead(replace(bundle, path=tmp_path), FakeCache(), service, SizeLimits())
