"""The table between the errors of core/errors.py and gRPC status, in both directions.

Servers send `status_of(error)`. Clients turn a failed call back into the same error with
`error_of`, and a status inside the answer of a stream with `error_in`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyProto
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2

from samserve.core.errors import (
    DeadlinePassed,
    EmbeddingNotCached,
    InvalidInput,
    ModelNotFound,
    ModelVersionMismatch,
    NoConcepts,
    Overloaded,
    PermissionDenied,
    SamserveError,
    Unauthenticated,
    Unavailable,
)
from samserve.wire.channel import proxy_hint

DOMAIN = "samserve"
DETAILS_KEY = "grpc-status-details-bin"
DEFAULT_RETRY_AFTER = 1.0  # seconds, where a status names none
TOO_LARGE_ANSWER = ("SERVER: Sent", "CLIENT: Received")  # of gRPC's messages


def _bad_request(error: InvalidInput) -> Message:
    violation = details.BadRequest.FieldViolation(field=error.field, description=str(error))
    detail: Message = details.BadRequest(field_violations=[violation])
    return detail


def _info(reason: str, **metadata: str) -> Message:
    detail: Message = details.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)
    return detail


def _retry(error: Any) -> Message:
    whole, rest = divmod(error.retry_after, 1)
    delay = Duration(seconds=int(whole), nanos=int(rest * 1e9))
    detail: Message = details.RetryInfo(retry_delay=delay)
    return detail


_TABLE: dict[type[SamserveError], tuple[grpc.StatusCode, Callable[[Any], Message]]] = {
    InvalidInput: (grpc.StatusCode.INVALID_ARGUMENT, _bad_request),
    EmbeddingNotCached: (
        grpc.StatusCode.NOT_FOUND,
        lambda e: _info("EMBEDDING_NOT_CACHED", image_id=e.image_id),
    ),
    ModelNotFound: (
        grpc.StatusCode.NOT_FOUND,
        lambda e: _info("MODEL_NOT_FOUND", model=e.model, known=",".join(e.known)),
    ),
    ModelVersionMismatch: (
        grpc.StatusCode.FAILED_PRECONDITION,
        lambda e: _info("MODEL_VERSION_MISMATCH", asked=e.asked, served=e.served),
    ),
    NoConcepts: (
        grpc.StatusCode.FAILED_PRECONDITION,
        lambda e: _info("NO_CONCEPTS", model=e.model, able=",".join(e.able)),
    ),
    Overloaded: (grpc.StatusCode.RESOURCE_EXHAUSTED, _retry),
    Unavailable: (grpc.StatusCode.UNAVAILABLE, _retry),
    Unauthenticated: (grpc.StatusCode.UNAUTHENTICATED, lambda _: _info("UNAUTHENTICATED")),
    PermissionDenied: (grpc.StatusCode.PERMISSION_DENIED, lambda _: _info("PERMISSION_DENIED")),
    DeadlinePassed: (
        grpc.StatusCode.DEADLINE_EXCEEDED,
        lambda e: _info("DEADLINE_EXCEEDED", stage=e.stage),
    ),
}


def code_of(error: BaseException) -> grpc.StatusCode:
    """Return the gRPC code of an exception; INTERNAL if it is not in the table."""
    row = _row_of(error)
    return grpc.StatusCode.INTERNAL if row is None else row[0]


def status_of(error: BaseException) -> status_pb2.Status:
    """Return the google.rpc.Status to answer with.

    An exception outside the table is a bug: it is logged here, and the caller learns only the id of
    the incident.
    """
    row = _row_of(error)
    if row is None:
        incident = secrets.token_hex(8)
        import structlog  # here, since a client needs no logs

        structlog.get_logger().error("internal error", incident=incident, exc_info=error)
        code = grpc.StatusCode.INTERNAL
        message = f"internal error, incident {incident}"
        detail = _info("INTERNAL", incident=incident)
    else:
        code, describe = row
        message = str(error)
        detail = describe(error)

    packed = AnyProto()
    packed.Pack(detail)
    return status_pb2.Status(code=code.value[0], message=message, details=[packed])


def error_of(error: Any, stage: str) -> SamserveError:
    """Return the exception that a failed call stands for.

    Args:
        error: A grpc.RpcError, plain or aio.
        stage: The service that the caller was waiting for.
    """
    sent = (value for key, value in error.trailing_metadata() or () if key == DETAILS_KEY)
    status = status_pb2.Status.FromString(next(sent, b""))
    return _error(error.code(), error.details() or "no reason given", status.details, stage)


def error_in(status: status_pb2.Status, stage: str) -> SamserveError:
    """Return the exception that a status inside an answer stands for; `stage` as in error_of."""
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    return _error(code, status.message, status.details, stage)


def _row_of(error: BaseException) -> tuple[grpc.StatusCode, Callable[[Any], Message]] | None:
    return next((_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE), None)


def _error(
    code: grpc.StatusCode, message: str, packed: Iterable[AnyProto], stage: str
) -> SamserveError:
    info, retry, bad = _unpack(packed)

    match code:
        case grpc.StatusCode.INVALID_ARGUMENT:
            field = bad.field_violations[0].field if bad.field_violations else "request"
            return InvalidInput(field, message)
        case grpc.StatusCode.NOT_FOUND if info.reason == "EMBEDDING_NOT_CACHED":
            return EmbeddingNotCached(info.metadata["image_id"])
        case grpc.StatusCode.NOT_FOUND if info.reason == "MODEL_NOT_FOUND":
            return ModelNotFound(info.metadata["model"], info.metadata["known"].split(","))
        case grpc.StatusCode.FAILED_PRECONDITION if info.reason == "MODEL_VERSION_MISMATCH":
            return ModelVersionMismatch(info.metadata["asked"], info.metadata["served"])
        case grpc.StatusCode.FAILED_PRECONDITION if info.reason == "NO_CONCEPTS":
            able = [name for name in info.metadata["able"].split(",") if name]
            return NoConcepts(info.metadata["model"], able)
        case grpc.StatusCode.RESOURCE_EXHAUSTED if _is_answer_too_large(message):
            return InvalidInput(
                "output",
                f"the answer of {stage} is too large: {message}; "
                "send fewer prompts, or ask for fewer masks or formats",
            )
        case grpc.StatusCode.RESOURCE_EXHAUSTED if _is_message_too_large(message):
            return InvalidInput("data", f"the image is larger than {stage} accepts: {message}")
        case grpc.StatusCode.RESOURCE_EXHAUSTED if _is_metadata_too_large(message):
            return InvalidInput("metadata", f"the metadata are too large: {message}")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Overloaded(stage, retry)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlinePassed(info.metadata.get("stage", stage))
        case grpc.StatusCode.UNAUTHENTICATED:
            return Unauthenticated()
        case grpc.StatusCode.PERMISSION_DENIED:
            return PermissionDenied()
        case grpc.StatusCode.UNAVAILABLE:
            return Unavailable(message + proxy_hint(message), retry)
        case grpc.StatusCode.UNKNOWN if _is_broken_by_haproxy(message):
            return Unavailable(f"{stage} ended the call early: {message}", retry)
        case grpc.StatusCode.CANCELLED if not _is_cancelled_by_caller(message):
            return Unavailable(f"{stage} cancelled the call: it is stopping", retry)
        case grpc.StatusCode.INTERNAL if _is_dead_replica(info):
            return Unavailable(f"{stage}: {message}", retry)
        case _:
            return SamserveError(f"{stage}: {message} ({code.name})")


# Statuses that gRPC, HAProxy or Ray Serve made, not one of the services.


def _is_answer_too_large(message: str) -> bool:
    """The server may not send so much, or this client may not receive it."""
    return any(f"{part} message larger than max" in message for part in TOO_LARGE_ANSWER)


def _is_metadata_too_large(message: str) -> bool:
    """gRPC refuses metadata, of a call or of its answer, with this text and no details."""
    return "metadata size exceeds" in message


def _is_message_too_large(message: str) -> bool:
    """gRPC refuses a message over the limit with this text and no details."""
    return "larger than max" in message


def _is_broken_by_haproxy(message: str) -> bool:
    """HAProxy answers HTTP 5xx for a replica that died, which gRPC reports so."""
    return "header with status: 5" in message


def _is_cancelled_by_caller(message: str) -> bool:
    """gRPC says so of the caller's own cancellation; a stopping server cancels, too."""
    return message.startswith("Locally cancelled")


def _is_dead_replica(info: details.ErrorInfo) -> bool:
    """Ray Serve answers INTERNAL without details for a replica that died; a service has them."""
    return not info.reason


def _unpack(packed: Iterable[AnyProto]) -> tuple[details.ErrorInfo, float, details.BadRequest]:
    info, retry, bad = details.ErrorInfo(), details.RetryInfo(), details.BadRequest()
    for detail in packed:
        for kind in (info, retry, bad):
            detail.Unpack(kind)

    seconds = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return info, seconds or DEFAULT_RETRY_AFTER, bad
