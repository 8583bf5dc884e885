"""The one table from the errors of core/errors.py to gRPC status, in both directions.

Servers send `status_of(error)`; the client library turns what it receives into the same classes with `error_of`,
and with `error_in` where a stream goes on after a failure.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from typing import Any

import grpc
import structlog
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
    Overloaded,
    SamserveError,
    Unavailable,
)

DOMAIN = "samserve"
DETAILS_KEY = "grpc-status-details-bin"


log = structlog.get_logger()


def _bad_request(error: InvalidInput) -> Message:
    violation = details.BadRequest.FieldViolation(field=error.field, description=str(error))
    detail: Message = details.BadRequest(field_violations=[violation])
    return detail


def _info(reason: str, **metadata: str) -> Message:
    detail: Message = details.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)
    return detail


def _retry(error: Any) -> Message:
    whole, rest = divmod(error.retry_after, 1)
    detail: Message = details.RetryInfo(
        retry_delay=Duration(seconds=int(whole), nanos=int(rest * 1e9))
    )
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
    Overloaded: (grpc.StatusCode.RESOURCE_EXHAUSTED, _retry),
    Unavailable: (grpc.StatusCode.UNAVAILABLE, _retry),
    DeadlinePassed: (
        grpc.StatusCode.DEADLINE_EXCEEDED,
        lambda e: _info("DEADLINE_EXCEEDED", stage=e.stage),
    ),
}


def code_of(error: BaseException) -> grpc.StatusCode:
    """The gRPC code of an exception; INTERNAL for whatever is not in the table."""
    return next(
        (_TABLE[c][0] for c in type(error).__mro__ if c in _TABLE), grpc.StatusCode.INTERNAL
    )


def status_of(error: BaseException) -> status_pb2.Status:
    """The google.rpc.Status to answer with. A bug is logged here, and its caller told only an id."""
    row = next((_TABLE[c] for c in type(error).__mro__ if c in _TABLE), None)
    if row is None:
        incident = secrets.token_hex(8)
        log.error("internal error", incident=incident, exc_info=error)
        message, detail = (
            f"internal error, incident {incident}",
            _info("INTERNAL", incident=incident),
        )
        code = grpc.StatusCode.INTERNAL
    else:
        code, describe = row
        message, detail = str(error), describe(error)
    packed = AnyProto()
    packed.Pack(detail)
    return status_pb2.Status(code=code.value[0], message=message, details=[packed])


def error_of(error: Any, stage: str) -> SamserveError:
    """The exception a received grpc.RpcError stands for, plain or aio; `stage` is what the caller was waiting for."""
    sent = (value for key, value in error.trailing_metadata() or () if key == DETAILS_KEY)
    status = status_pb2.Status.FromString(next(sent, b""))
    return _error(error.code(), error.details() or "no reason given", status.details, stage)


def error_in(status: status_pb2.Status, stage: str) -> SamserveError:
    """The exception that a status inside an answer stands for; `stage` as in error_of."""
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    return _error(code, status.message, status.details, stage)


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
        case grpc.StatusCode.RESOURCE_EXHAUSTED if (
            "larger than max" in message
        ):  # gRPC's own word, without details
            return InvalidInput("data", f"the image is larger than {stage} accepts: {message}")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Overloaded(stage, retry)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlinePassed(info.metadata.get("stage", stage))
        case grpc.StatusCode.UNKNOWN if (
            "header with status: 5" in message
        ):  # HAProxy's word on a replica that died
            return Unavailable(f"{stage} broke off the call: {message}", retry)
        case grpc.StatusCode.UNAVAILABLE:
            return Unavailable(message, retry)
        # gRPC's word on a call that reached a server as it began to stop; a caller's own cancelling is "Locally".
        case grpc.StatusCode.CANCELLED if not message.startswith("Locally cancelled"):
            return Unavailable(f"{stage} cancelled the call: it is stopping", retry)
        case grpc.StatusCode.INTERNAL if (
            not info.reason
        ):  # not our word: Ray Serve's, for a replica that has died
            return Unavailable(f"{stage}: {message}", retry)
        case _:
            return SamserveError(f"{stage}: {message} ({code.name})")


def _unpack(packed: Iterable[AnyProto]) -> tuple[details.ErrorInfo, float, details.BadRequest]:
    info, retry, bad = details.ErrorInfo(), details.RetryInfo(), details.BadRequest()
    for one in packed:
        for kind in (info, retry, bad):
            one.Unpack(kind)
    seconds = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return info, seconds or 1.0, bad
