import grpc
import pytest
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2
from samserve.core import errors
from samserve.core.errors import SamserveError
from samserve.wire.status import DETAILS_KEY, code_of, error_in, error_of, status_of

EVERY = [
    (errors.InvalidInput("prompts[0]", "no"), grpc.StatusCode.INVALID_ARGUMENT),
    (errors.EmbeddingNotCached("0" * 64), grpc.StatusCode.NOT_FOUND),
    (errors.ModelNotFound("sam9", ["nano"]), grpc.StatusCode.NOT_FOUND),
    (errors.ModelVersionMismatch("a", "b"), grpc.StatusCode.FAILED_PRECONDITION),
    (errors.NoConcepts("nano", ["sam3"]), grpc.StatusCode.FAILED_PRECONDITION),
    (errors.Overloaded("the decoder", 0.5), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.Unavailable("down", 2.5), grpc.StatusCode.UNAVAILABLE),
    (errors.DeadlinePassed("encode"), grpc.StatusCode.DEADLINE_EXCEEDED),
    (errors.Unauthenticated(), grpc.StatusCode.UNAUTHENTICATED),
    (errors.PermissionDenied(), grpc.StatusCode.PERMISSION_DENIED),
]


class Received(grpc.RpcError):
    """A failed call as a client sees it."""

    def __init__(self, code: grpc.StatusCode, status: status_pb2.Status) -> None:
        self._code, self._status = code, status

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._status.message

    def trailing_metadata(self) -> list[tuple[str, bytes]]:
        return [(DETAILS_KEY, self._status.SerializeToString())]


@pytest.mark.parametrize(("error", "code"), EVERY, ids=lambda v: type(v).__name__)
def test_every_error_reaches_the_caller_as_the_same_error(
    error: SamserveError, code: grpc.StatusCode
) -> None:
    status = status_of(error)
    assert status.code == code.value[0]
    assert code_of(error) is code
    for received in (
        error_of(Received(code, status), "the decoder"),
        error_in(status, "the decoder"),
    ):
        assert type(received) is type(error)
        for name in (
            "field",
            "image_id",
            "model",
            "known",
            "asked",
            "served",
            "retry_after",
            "stage",
        ):
            assert getattr(received, name, None) == getattr(error, name, None)


def test_an_internal_error_of_a_proxy_means_unavailable() -> None:
    for code, message in (
        # Ray Serve's message for a replica that died.
        (grpc.StatusCode.INTERNAL, "The actor died unexpectedly before finishing this task."),
        # gRPC's message for the answer of HAProxy about one.
        (grpc.StatusCode.UNKNOWN, "Received http2 header with status: 500"),
    ):
        received = Received(code, status_pb2.Status(message=message))
        assert type(error_of(received, "the embedding service")) is errors.Unavailable

    ours = Received(grpc.StatusCode.INTERNAL, status_of(ValueError("a bug")))
    assert type(error_of(ours, "the embedding service")) is SamserveError


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("SERVER: Sent message larger than max (36000335 vs. 34603008)", "output"),
        ("CLIENT: Received message larger than max (36000335 vs. 34603008)", "output"),
        ("SERVER: Received message larger than max (36000335 vs. 34603008)", "data"),
        ("CLIENT: Sent message larger than max (36000335 vs. 34603008)", "data"),
        ("received metadata size exceeds hard limit (value length 60000)", "metadata"),
    ],
)
def test_what_was_too_large_is_named_and_not_retried(message: str, field: str) -> None:
    status = status_pb2.Status(message=message)
    error = error_of(Received(grpc.StatusCode.RESOURCE_EXHAUSTED, status), "the decoder")
    assert isinstance(error, errors.InvalidInput)
    assert error.field == field
    assert ("image" in str(error)) is (field == "data")


def test_a_call_cancelled_by_a_stopping_server_can_be_retried() -> None:
    for message, expected in (
        ("CANCELLED", errors.Unavailable),
        ("Locally cancelled by application!", SamserveError),
    ):
        received = Received(grpc.StatusCode.CANCELLED, status_pb2.Status(message=message))
        assert type(error_of(received, "the decoder")) is expected


def test_every_error_of_the_tree_is_in_the_table() -> None:
    kinds = SamserveError.__subclasses__()
    sent = {kind for kind in kinds if kind.__module__ == errors.__name__}  # others never cross gRPC
    assert {type(error) for error, _ in EVERY} == sent


def test_a_subclass_is_answered_as_its_parent() -> None:
    class QuotaSpent(errors.Overloaded):
        pass

    assert code_of(QuotaSpent("quota")) is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_bug_answers_with_an_incident_id_only() -> None:
    status = status_of(ValueError("the password is 1234"))
    info = details.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert status.code == grpc.StatusCode.INTERNAL.value[0]
    assert info.metadata["incident"] in status.message
    assert "1234" not in str(status)
