"""Reads the stream of FindConcepts. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from samserve.core.cache_status import CacheStatus
from samserve.core.embedding import EmbeddingHeader
from samserve.core.errors import InvalidInput, SamserveError, Unavailable
from samserve.core.geometry import Size
from samserve.v1 import embedding_pb2 as pb
from samserve.wire.convert import cache_status_from_proto
from samserve.wire.status import error_in

SERVICE = "the embedding service"


@dataclass(frozen=True, slots=True)
class RemoteConcepts:
    """An answer of the embedding service.

    Attributes:
        image: Size of the image, and the version that embedded it.
        status: Where its embedding came from.
        head_version: Of the head.
        results: Packed entries by the concepts' numbers, or why one failed.
        remote_ms: The service's stages in milliseconds.
    """

    image: EmbeddingHeader
    status: CacheStatus
    head_version: str
    results: Mapping[int, tuple[bytes, CacheStatus] | SamserveError]
    remote_ms: dict[str, float] = field(default_factory=dict)


class ConceptReader:
    """Gathers an answer; concepts get the numbers of the caller's request back."""

    def __init__(self, numbers: Sequence[int]) -> None:
        """Take the numbers of the concepts in the caller's request, in the order asked."""
        self._numbers = numbers
        self._found: pb.FindConceptsResponse.Found | None = None
        self._results: dict[int, tuple[bytes, CacheStatus] | SamserveError] = {}
        self._times: dict[str, float] = {}

    def read(self, response: pb.FindConceptsResponse) -> None:
        """Read the next message."""
        kind = response.WhichOneof("message")
        if kind == "found":
            self._found = response.found
        elif kind == "result":
            self._read_result(response.result)
        elif kind == "finished":
            self._times = {time.stage: time.milliseconds for time in response.finished.timings}

    def _read_result(self, result: pb.FindConceptsResponse.Result) -> None:
        if result.concept >= len(self._numbers):
            return
        number = self._numbers[result.concept]
        if result.HasField("error"):
            error = error_in(result.error, SERVICE)
            self._results[number] = _renumbered(error, number)
        else:
            status = cache_status_from_proto(result.cache)
            self._results[number] = (result.detections.data, status)

    def answer(self) -> RemoteConcepts:
        """Return the answer. Raises Unavailable if a part of it is missing."""
        if self._found is None or len(self._results) < len(self._numbers):
            raise Unavailable(f"{SERVICE} ended its answer early")
        image = self._found.image
        return RemoteConcepts(
            EmbeddingHeader(image.model_version, Size(image.width, image.height)),
            cache_status_from_proto(self._found.cache),
            self._found.head_version,
            self._results,
            self._times,
        )


def _renumbered(error: SamserveError, number: int) -> SamserveError:
    """Name a concept by its number in the caller's request."""
    if not isinstance(error, InvalidInput):
        return error

    def named(text: str) -> str:
        return re.sub(r"\bconcepts\[\d+\]", f"concepts[{number}]", text)

    return InvalidInput(named(error.field), named(str(error)))
