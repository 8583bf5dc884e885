"""Which calls are logged, and the fields of their lines."""

from collections.abc import Iterator

import grpc.aio
import pytest
import structlog
from contract.calls import FIRST, ID, OUTSIDE, Stream, prompt, step
from contract.conftest import Service
from samserve.core.errors import Overloaded, Unavailable
from samserve.decoder.servicer import TimeLimits
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import types_pb2 as types
from samserve.wire.request_id import REQUEST_ID_KEY
from structlog.testing import capture_logs
from structlog.typing import EventDict

OURS = ((REQUEST_ID_KEY, "click-7"),)


@pytest.fixture
def lines() -> Iterator[list[EventDict]]:
    with capture_logs([structlog.contextvars.merge_contextvars]) as written:
        yield written


def request(clicks: list[tuple[float, float, bool]] = FIRST) -> pb.PredictRequest:
    return pb.PredictRequest(ref=types.ImageRef(image_id=ID), prompts=[prompt(clicks)])


async def test_a_fast_call_is_not_logged_and_its_request_id_comes_back(
    service: Service, lines: list[EventDict]
) -> None:
    service.embeddings.known.add(ID)
    call = service.stub.Predict(request(), metadata=OURS)
    await call
    assert dict(await call.trailing_metadata())[REQUEST_ID_KEY] == "click-7"
    stream = Stream(service)
    await stream.open()
    await stream.ask(step(1, prompt(FIRST)))
    assert lines == []
    stream.call.cancel()


@pytest.mark.parametrize("sent", ["", "two words", "x" * 200])
async def test_a_call_without_a_valid_request_id_gets_one(service: Service, sent: str) -> None:
    service.embeddings.known.add(ID)
    ids = set()
    for _ in range(2):
        call = service.stub.Predict(request(), metadata=((REQUEST_ID_KEY, sent),))
        await call
        ids.add(dict(await call.trailing_metadata())[REQUEST_ID_KEY])
    assert len(ids) == 2
    assert sent not in ids


@pytest.mark.parametrize(
    ("failure", "code", "level"),
    [
        (None, "INVALID_ARGUMENT", "info"),
        (Unavailable("the encoder is away"), "UNAVAILABLE", "warning"),
    ],
)
async def test_a_failed_call_is_logged_with_the_ids_of_request_and_image(
    service: Service, lines: list[EventDict], failure: Exception | None, code: str, level: str
) -> None:
    service.embeddings.known.add(ID)
    service.embeddings.failure = failure
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.stub.Predict(request(OUTSIDE), metadata=OURS)
    assert dict(caught.value.trailing_metadata())[REQUEST_ID_KEY] == "click-7"
    (line,) = lines
    assert (line["event"], line["log_level"], line["code"]) == ("failed call", level, code)
    assert (line["method"], line["request_id"], line["image_id"]) == ("Predict", "click-7", ID)
    assert line["reason"] == caught.value.details()


@pytest.mark.parametrize("failure", [None, Overloaded("the queue")])
async def test_unknown_ids_and_refusals_are_logged_at_debug_level(
    service: Service, lines: list[EventDict], failure: Exception | None
) -> None:
    service.embeddings.failure = failure
    with pytest.raises(grpc.aio.AioRpcError):
        await service.stub.Predict(request())
    assert [line["log_level"] for line in lines] == ["debug"]


async def test_the_log_line_of_a_bug_has_the_request_id(
    service: Service, lines: list[EventDict]
) -> None:
    service.embeddings.failure = RuntimeError("secret")
    with pytest.raises(grpc.aio.AioRpcError):
        await service.stub.Predict(request(), metadata=OURS)
    assert {line["event"]: line["request_id"] for line in lines} == {
        "internal error": "click-7",
        "failed call": "click-7",
    }


class TestOfASlowDecoder:
    @pytest.fixture
    def patience(self) -> TimeLimits:
        return TimeLimits(slow=0, stream=60)

    async def test_calls_and_steps_are_logged_with_their_stages(
        self, service: Service, lines: list[EventDict]
    ) -> None:
        service.embeddings.known.add(ID)
        await service.stub.Predict(request())
        stream = Stream(service)
        await stream.open()
        await stream.ask(step(1, prompt(FIRST)))
        assert [(line["event"], line["method"]) for line in lines] == [
            ("slow call", "Predict"),
            ("slow call", "Interact.step"),
        ]
        for line in lines:
            assert (line["code"], line["image_id"]) == ("OK", ID)
            assert {"queue", "decode", "masks"} <= set(line["stages"])
        stream.call.cancel()
