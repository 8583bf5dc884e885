"""The scope in which calls are answered."""

import asyncio

import grpc
import pytest
import structlog
from google.rpc import status_pb2
from prometheus_client import REGISTRY
from samserve.core.errors import InvalidInput
from samserve.wire.call import call_scope, observe_call
from samserve.wire.request_id import REQUEST_ID_KEY
from samserve.wire.status import DETAILS_KEY
from structlog.contextvars import get_contextvars
from structlog.testing import capture_logs

SENT = ((REQUEST_ID_KEY, "click-7"),)


def counted(method: str, code: str) -> float:
    labels = {"method": method, "code": code}
    return REGISTRY.get_sample_value("samserve_requests_total", labels) or 0.0


def test_a_call_is_counted_under_its_callers_id() -> None:
    with capture_logs() as lines, call_scope("Good", SENT) as call:
        assert get_contextvars()["request_id"] == call.request_id == "click-7"
    assert "request_id" not in get_contextvars()
    assert (call.code, call.failed) == (grpc.StatusCode.OK, False)
    assert call.trailing_metadata == SENT
    assert counted("Good", "OK") == 1
    assert lines == []


def test_an_error_becomes_the_calls_status() -> None:
    with (
        capture_logs([structlog.contextvars.merge_contextvars]) as lines,
        call_scope("Bad", SENT) as call,
    ):
        raise InvalidInput("prompts", "no prompt given")
    assert (call.code, call.failed) == (grpc.StatusCode.INVALID_ARGUMENT, True)

    trailing = dict(call.trailing_metadata)
    assert trailing[REQUEST_ID_KEY] == "click-7"
    assert status_pb2.Status.FromString(trailing[DETAILS_KEY]).message == "no prompt given"

    assert counted("Bad", "INVALID_ARGUMENT") == 1
    (line,) = lines
    assert (line["reason"], line["request_id"]) == ("no prompt given", "click-7")


def test_a_cancelled_call_is_counted_and_stays_cancelled() -> None:
    with pytest.raises(asyncio.CancelledError), call_scope("Gone", ()):
        raise asyncio.CancelledError
    assert counted("Gone", "CANCELLED") == 1


def test_an_item_of_a_stream_has_the_streams_id_and_is_not_counted() -> None:
    with call_scope("Item", SENT, request_id="stream-1", counted=False) as call:
        assert get_contextvars()["request_id"] == "stream-1"
        raise InvalidInput("data", "unsupported or damaged image")
    assert call.status.message == "unsupported or damaged image"
    assert counted("Item", "INVALID_ARGUMENT") == 0


def test_an_observed_step_lets_errors_through() -> None:
    with pytest.raises(InvalidInput), observe_call("Step") as call:
        raise InvalidInput("prompt", "prompt is empty")
    assert call.code is grpc.StatusCode.OK


def test_a_slow_call_is_logged() -> None:
    with capture_logs() as lines, call_scope("Slow", (), slow=0):
        pass
    (line,) = lines
    assert (line["event"], line["method"], line["code"]) == ("slow call", "Slow", "OK")
