"""Translates the messages of Find. Pure."""

from __future__ import annotations

from samserve.core.errors import SamserveError
from samserve.core.geometry import Size
from samserve.core.limits import MAX_CONCEPTS, RequestLimits, check_count
from samserve.decoder.concepts.finder import (
    ConceptInput,
    FindRequest,
    Found,
    FoundInstance,
    FoundInstances,
)
from samserve.decoder.messages import mask_to_proto, read_image, read_output
from samserve.infra.stages import StageClock
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import types_pb2 as types
from samserve.wire.convert import cache_status_to_proto, image_ref, read_concept, stage_times
from samserve.wire.status import status_of


def read_find(request: pb.FindRequest, limits: RequestLimits) -> FindRequest:
    """Return what to find, checked for its size only. Raises InvalidInput."""
    check_count(len(request.concepts), MAX_CONCEPTS, "concepts", "concepts in one call")
    return FindRequest(
        image=read_image(request),
        concepts=tuple(
            ConceptInput(
                read_concept(concept),
                concept.threshold if concept.HasField("threshold") else None,
            )
            for concept in request.concepts
        ),
        output=read_output(request.output, limits),
        threshold=request.threshold if request.HasField("threshold") else None,
        max_overlap=request.max_overlap,
    )


def write_found(found: Found, clock: StageClock) -> pb.FindResponse:
    """Return the answer as a message."""
    return pb.FindResponse(
        image=image_ref(found.image_id, found.image),
        cache=cache_status_to_proto(found.status),
        results=[_result(result, found.image.size) for result in found.results],
        timings=stage_times(clock.milliseconds),
    )


def _result(result: FoundInstances | SamserveError, size: Size) -> pb.ConceptResult:
    if isinstance(result, SamserveError):
        return pb.ConceptResult(error=status_of(result))
    return pb.ConceptResult(
        presence=result.presence,
        instances=[_instance(instance, size) for instance in result.instances],
        cut_off=result.cut_off,
        cache=cache_status_to_proto(result.status),
    )


def _instance(instance: FoundInstance, size: Size) -> pb.Instance:
    x0, y0, x1, y1 = instance.box
    return pb.Instance(
        score=instance.score,
        box=types.Box(x0=x0, y0=y0, x1=x1, y1=y1),
        mask=mask_to_proto(instance.mask, size),
    )
