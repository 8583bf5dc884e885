"""Every failure that a caller can see, as one tree. wire/status.py has the table to gRPC status.

SamserveError                INTERNAL             a bug; has an id to find the log by
├─ InvalidInput              INVALID_ARGUMENT     BadRequest with the field
├─ EmbeddingNotCached        NOT_FOUND            ErrorInfo EMBEDDING_NOT_CACHED
├─ ModelNotFound             NOT_FOUND            ErrorInfo MODEL_NOT_FOUND, the available ones
├─ ModelVersionMismatch      FAILED_PRECONDITION  ErrorInfo with both versions
├─ NoConcepts            FAILED_PRECONDITION  ErrorInfo NO_CONCEPTS, the models that do
├─ Overloaded                RESOURCE_EXHAUSTED   RetryInfo
│  └─ QuotaSpent             likewise
├─ Unavailable               UNAVAILABLE          RetryInfo
├─ Unauthenticated           UNAUTHENTICATED      ErrorInfo without anything that helps to guess
├─ PermissionDenied          PERMISSION_DENIED    ErrorInfo, likewise
└─ DeadlinePassed            DEADLINE_EXCEEDED    ErrorInfo with the stage
"""

from __future__ import annotations

LONGEST_ECHO = 100  # characters of a caller's string in messages, details and logs


def shorten(text: str) -> str:
    """Return a caller's string for a message; one of more than LONGEST_ECHO characters is cut."""
    return text if len(text) <= LONGEST_ECHO else f"{text[: LONGEST_ECHO - 3]}..."


class SamserveError(Exception):
    """Base of every error that is answered with a status."""


class InvalidInput(SamserveError):
    """The request is invalid; `field` names the part to correct."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field = field


class EmbeddingNotCached(SamserveError):
    """The image's embedding is not in the cache, or no longer; the image's bytes are needed."""

    def __init__(self, image_id: str) -> None:
        self.image_id = shorten(image_id)
        super().__init__(f"no cached embedding for image {self.image_id}; send the image's bytes")


class ModelNotFound(SamserveError):
    """No model with this name is served."""

    def __init__(self, model: str, known: list[str]) -> None:
        self.model = shorten(model)
        self.known = known
        super().__init__(f"unknown model {self.model!r}; available: {', '.join(known)}")


class ModelVersionMismatch(SamserveError):
    """The embedding was made by a version of the model that is not served."""

    def __init__(self, asked: str, served: str) -> None:
        self.asked = shorten(asked)
        self.served = served
        super().__init__(
            f"the image was embedded by model version {self.asked}, "
            f"but version {served} is served; embed it again"
        )


class NoConcepts(SamserveError):
    """The model answers points, boxes and masks, but no concepts."""

    def __init__(self, model: str, able: list[str]) -> None:
        self.model = model
        self.able = able
        others = f"models that do: {', '.join(able)}" if able else "no model here does"
        super().__init__(
            f"model {model!r} answers points, boxes and masks, but no text or examples; {others}"
        )


class Overloaded(SamserveError):
    """A queue is full; `retry_after` in seconds."""

    def __init__(self, what: str, retry_after: float = 1.0) -> None:
        super().__init__(f"{what} is full; retry in {retry_after:g} s")
        self.retry_after = retry_after


class QuotaSpent(Overloaded):
    """The tenant's quota is spent; it is renewed after `retry_after` seconds."""

    def __init__(self, quota: str, retry_after: float) -> None:
        super().__init__("the quota", retry_after)
        self.args = (f"the tenant's quota of {quota} is spent; retry in {retry_after:.0f} s",)


class Unavailable(SamserveError):
    """A service that the answer needs is down; `retry_after` in seconds."""

    def __init__(self, problem: str, retry_after: float = 1.0) -> None:
        super().__init__(problem)
        self.retry_after = retry_after


class DeadlinePassed(SamserveError):
    """The caller's deadline passed in `stage`."""

    def __init__(self, stage: str) -> None:
        super().__init__(f"deadline exceeded in stage {stage!r}; allow more time")
        self.stage = stage


class Unauthenticated(SamserveError):
    """The call has no valid credentials. All reasons are told alike."""

    def __init__(self) -> None:
        super().__init__("missing or invalid credentials; send a valid key to the public address")


class PermissionDenied(SamserveError):
    """The credentials are valid, but do not allow the call."""

    def __init__(self) -> None:
        super().__init__("these credentials do not allow the call; use a key with its scope")
