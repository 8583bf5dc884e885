"""Every failure a caller can see, as one tree. wire/status.py has the table to gRPC status.

SamserveError                INTERNAL             our bug: an id to find the log by
├─ InvalidInput              INVALID_ARGUMENT     BadRequest, the field named
├─ EmbeddingNotCached        NOT_FOUND            ErrorInfo EMBEDDING_NOT_CACHED
├─ ModelNotFound             NOT_FOUND            ErrorInfo MODEL_NOT_FOUND, the known ones listed
├─ ModelVersionMismatch      FAILED_PRECONDITION  ErrorInfo with both versions
├─ Overloaded                RESOURCE_EXHAUSTED   RetryInfo
├─ Unavailable               UNAVAILABLE          RetryInfo
└─ DeadlinePassed            DEADLINE_EXCEEDED    ErrorInfo with the stage
"""

from __future__ import annotations


class SamserveError(Exception):
    """Anything that can be answered with a status."""


class InvalidInput(SamserveError):
    """The request cannot be answered as it is; `field` says what to mend."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field = field


class EmbeddingNotCached(SamserveError):
    """The image must be sent again: its embedding is not there, or no longer."""

    def __init__(self, image_id: str) -> None:
        super().__init__(f"no embedding is cached for image {image_id}: send the image's bytes")
        self.image_id = image_id


class ModelNotFound(SamserveError):
    """No such model is served here."""

    def __init__(self, model: str, known: list[str]) -> None:
        super().__init__(f"there is no model {model!r} here; there is: {', '.join(known)}")
        self.model, self.known = model, known


class ModelVersionMismatch(SamserveError):
    """The reference was made by another version of the model."""

    def __init__(self, asked: str, served: str) -> None:
        super().__init__(
            f"the image was embedded by model version {asked}, served is {served}: embed it again"
        )
        self.asked, self.served = asked, served


class Overloaded(SamserveError):
    """A queue is full; `retry_after` in seconds."""

    def __init__(self, what: str, retry_after: float = 1.0) -> None:
        super().__init__(f"{what} is full: try again in {retry_after:g} s")
        self.retry_after = retry_after


class Unavailable(SamserveError):
    """Something this service needs is down; `retry_after` in seconds."""

    def __init__(self, problem: str, retry_after: float = 1.0) -> None:
        super().__init__(problem)
        self.retry_after = retry_after


class DeadlinePassed(SamserveError):
    """The caller's time ran out in `stage`."""

    def __init__(self, stage: str) -> None:
        super().__init__(f"the deadline passed in stage {stage!r}: allow more time")
        self.stage = stage
