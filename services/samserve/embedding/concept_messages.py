"""Translates the messages of FindConcepts. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from samserve.core.caller import current_caller
from samserve.core.concept import TokenizedConcept
from samserve.core.errors import SamserveError
from samserve.core.image_request import ImageRequest
from samserve.core.limits import MAX_CONCEPTS, check_count, check_string
from samserve.embedding.concept_finder import ConceptEntry, ConceptResults
from samserve.infra.stages import StageClock
from samserve.v1 import embedding_pb2 as pb
from samserve.v1 import types_pb2 as types
from samserve.wire.convert import (
    cache_status_to_proto,
    image_ref,
    read_examples,
    stage_times,
)
from samserve.wire.status import status_of


def read_image(request: pb.FindConceptsRequest) -> ImageRequest:
    """Return the image that a request of the current caller is about. Raises InvalidInput."""
    return ImageRequest(
        owner=current_caller().owner,
        model=check_string(request.model, "model"),
        data=request.data if request.WhichOneof("image") == "data" else None,
        image_id=request.ref.image_id,
        expected_image_id=check_string(request.expected_image_id, "expected_image_id"),
        model_version=check_string(request.ref.model_version, "ref.model_version"),
    )


def read_concepts(request: pb.FindConceptsRequest) -> list[TokenizedConcept]:
    """Return what to look for, checked for its number only. Raises InvalidInput."""
    check_count(len(request.concepts), MAX_CONCEPTS, "concepts", "concepts in one call")
    return [
        TokenizedConcept(tuple(concept.tokens), read_examples(concept.examples))
        for concept in request.concepts
    ]


def write_results(results: ConceptResults, clock: StageClock) -> Iterator[pb.FindConceptsResponse]:
    """Yield the image, the concepts, and the end."""
    found = pb.FindConceptsResponse.Found(
        image=image_ref(results.image_id, results.image),
        cache=cache_status_to_proto(results.status),
        head_version=results.head_version,
    )
    yield pb.FindConceptsResponse(found=found)

    for number, entry in enumerate(results.results):
        yield pb.FindConceptsResponse(result=_result(number, entry))

    finished = pb.FindConceptsResponse.Finished(timings=stage_times(clock.milliseconds))
    yield pb.FindConceptsResponse(finished=finished)


def _result(number: int, entry: ConceptEntry | SamserveError) -> pb.FindConceptsResponse.Result:
    if isinstance(entry, SamserveError):
        return pb.FindConceptsResponse.Result(concept=number, error=status_of(entry))
    return pb.FindConceptsResponse.Result(
        concept=number,
        detections=types.PackedEmbedding(data=entry.packed),
        cache=cache_status_to_proto(entry.status),
    )
