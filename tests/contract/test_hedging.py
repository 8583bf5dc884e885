"""A server that stands still, refuses or breaks a connection costs a second attempt, not the call.

The servers are in threads of this process and count what reaches them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import pytest
from samserve.client import Click, Client, Prompt, channel, hedging
from samserve.core.errors import InvalidInput, Unavailable
from samserve.decoder import server as decoder_server
from samserve.infra.settings import DecoderSettings
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import segmentation_pb2_grpc as rpc
from samserve.v1 import types_pb2 as types
from samserve.wire.status import DETAILS_KEY, status_of

CAP = 60.0
IMAGE = b"an image"
CLICK = [Click(1, 1)]
OUTSIDE = 5000.0


class Decoder(rpc.SegmentationServiceServicer):
    """Answers, or holds calls while it is stopped, or fails the next ones."""

    def __init__(self) -> None:
        self.asked = 0
        self.uploads = 0
        self.opened = 0
        self.boxes: list[types.Box] = []
        self.prompts: list[int] = []  # of each call
        self.failures: list[tuple[grpc.StatusCode, str]] = []
        self.running = threading.Event()
        self.running.set()

    def Predict(
        self, request: pb.PredictRequest, context: grpc.ServicerContext
    ) -> pb.PredictResponse:
        self.asked += 1
        self.uploads += bool(request.data)
        self.prompts.append(len(request.prompts))
        self.boxes += [prompt.box for prompt in request.prompts if prompt.HasField("box")]
        if self.failures:
            context.abort(*self.failures.pop(0))
        for number, prompt in enumerate(request.prompts):
            if prompt.points[0].x == OUTSIDE:
                refuse(context, f"prompts[{number}]")
        self.running.wait(CAP)
        return pb.PredictResponse(
            image=types.ImageRef(width=100, height=50),
            cache=types.CACHE_STATUS_HIT,
            results=[
                pb.PromptResult(masks=[pb.Mask(area=int(prompt.points[0].x))])
                for prompt in request.prompts
            ],
        )

    def Interact(
        self, requests: Iterator[pb.InteractRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.InteractResponse]:
        for request in requests:
            if request.HasField("open"):
                self.opened += 1
                image = types.ImageRef(width=100, height=50)
                opened = pb.InteractResponse.Opened(image=image, cache=types.CACHE_STATUS_HIT)
                yield pb.InteractResponse(opened=opened)
            else:
                yield pb.InteractResponse(
                    answer=pb.InteractResponse.Answer(step=request.step.id, masks=[pb.Mask()])
                )


def refuse(context: grpc.ServicerContext, field: str) -> None:
    status = status_of(InvalidInput(field, f"{field} is outside the image"))
    context.set_trailing_metadata([(DETAILS_KEY, status.SerializeToString())])
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, status.message)


@pytest.fixture
def decoders() -> list[Decoder]:
    return [Decoder(), Decoder()]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, no call takes so long that it is made once more."""
    monkeypatch.setattr(hedging, "FIRST_DELAY", CAP)
    monkeypatch.setattr(hedging, "SHORTEST_DELAY", CAP)


@pytest.fixture
def address(decoders: list[Decoder]) -> Iterator[str]:
    with ExitStack() as stack:
        ports = []
        for decoder in decoders:
            pool = stack.enter_context(ThreadPoolExecutor(32))
            options = decoder_server.server_options(DecoderSettings())
            server = grpc.server(pool, options=options)
            rpc.add_SegmentationServiceServicer_to_server(decoder, server)
            ports.append(server.add_insecure_port("127.0.0.1:0"))
            server.start()
            stack.callback(lambda s=server: s.stop(None).wait())
            stack.callback(decoder.running.set)
        yield "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    """Connected to both servers, and familiar with their usual durations."""
    with Client(address, address, timeout=CAP) as client:
        for _ in range(2 * hedging.FEWEST_TIMED):
            client.segment(IMAGE, CLICK)
        yield client


def asked(decoders: list[Decoder]) -> int:
    return sum(decoder.asked for decoder in decoders)


def test_a_click_on_a_stopped_decoder_is_answered_by_the_other(
    client: Client, decoders: list[Decoder]
) -> None:
    stopped, other = decoders
    stopped.running.clear()
    before = other.asked
    for _ in range(20):
        client.segment(IMAGE, CLICK)
    assert other.asked - before >= 20


def test_a_decoder_that_does_not_answer_is_left_out_for_a_while(
    client: Client, decoders: list[Decoder]
) -> None:
    stopped, _ = decoders
    stopped.running.clear()
    end = time.monotonic() + CAP
    while time.monotonic() < end:
        before = stopped.asked
        for _ in range(20):
            client.segment(IMAGE, CLICK)
        if stopped.asked == before:
            return
    raise AssertionError("every round of clicks went to the stopped decoder too")


def test_further_attempts_are_bounded_for_a_call_and_over_all_calls(
    client: Client, decoders: list[Decoder]
) -> None:
    for decoder in decoders:
        decoder.running.clear()
    before = asked(decoders)
    with ThreadPoolExecutor(32) as pool:
        calls = [pool.submit(client.segment, IMAGE, CLICK) for _ in range(30)]
        time.sleep(10 * hedging.SHORTEST_DELAY)
        for decoder in decoders:
            decoder.running.set()
        for call in calls:
            call.result()
    made = asked(decoders) - before
    assert 30 < made <= min(30 * hedging.MOST_ATTEMPTS, 30 + hedging.FULL_BUDGET + 3)


def test_an_upload_is_not_made_twice_because_it_takes_long(
    client: Client, decoders: list[Decoder]
) -> None:
    request = pb.PredictRequest(data=IMAGE, prompts=[pb.Prompt(points=[types.Point(x=1, y=1)])])
    for decoder in decoders:
        decoder.running.clear()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client._request_masks, time.monotonic() + CAP, request)
        time.sleep(5 * hedging.SHORTEST_DELAY)
        for decoder in decoders:
            decoder.running.set()
        call.result()
    assert sum(decoder.uploads for decoder in decoders) == 1


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (grpc.StatusCode.UNAVAILABLE, "GOAWAY received"),
        (grpc.StatusCode.UNKNOWN, "Received http2 header with status: 500"),
        (grpc.StatusCode.CANCELLED, "Received RST_STREAM with error code 8"),
    ],
)
def test_a_call_that_a_proxy_or_another_caller_ended_is_made_once_more(
    patient: None, client: Client, decoders: list[Decoder], code: grpc.StatusCode, text: str
) -> None:
    for decoder in decoders:
        decoder.failures = [(code, text)]
    before = asked(decoders)
    for _ in range(10):
        client.segment(IMAGE, CLICK)
    assert asked(decoders) - before == 12  # one more for each failure


def test_retries_stop_when_the_budget_is_spent(
    patient: None, client: Client, decoders: list[Decoder]
) -> None:
    client._decoder_calls._budget._left = 1.0
    for decoder in decoders:
        decoder.failures = [(grpc.StatusCode.UNAVAILABLE, "away")] * 100
    before = asked(decoders)
    for _ in range(3):
        with pytest.raises(Unavailable):
            client.segment(IMAGE, CLICK)
    assert asked(decoders) - before == 4  # three, and one retry


def test_an_answer_whose_metadata_are_too_large_is_not_retried(
    patient: None, client: Client, decoders: list[Decoder]
) -> None:
    refusal = (grpc.StatusCode.RESOURCE_EXHAUSTED, "received metadata size exceeds hard limit")
    for decoder in decoders:
        decoder.failures = [refusal]
    before = asked(decoders)
    with pytest.raises(InvalidInput, match="the metadata are too large"):
        client.segment(IMAGE, CLICK)
    assert asked(decoders) - before == 1


def test_many_prompts_are_several_calls_and_one_answer_in_order(
    patient: None, client: Client, decoders: list[Decoder]
) -> None:
    for decoder in decoders:
        decoder.prompts.clear()
    prompts = [Prompt([Click(x, 1)]) for x in range(300)]
    answer = client.predict(IMAGE, prompts)
    assert [result[0].area for result in answer.results] == list(range(300))
    sent = [number for decoder in decoders for number in decoder.prompts]
    assert sum(sent) == 300
    assert max(sent) == 16


def test_an_invalid_prompt_of_many_is_named_by_its_own_number(
    client: Client, decoders: list[Decoder]
) -> None:
    prompts = [Prompt([Click(x, 1)]) for x in range(35)] + [Prompt([Click(OUTSIDE, 1)])]
    with pytest.raises(InvalidInput, match=r"prompts\[35\] is outside") as caught:
        client.predict(IMAGE, prompts)
    assert caught.value.field == "prompts[35]"


def test_a_box_is_clamped_to_the_size_that_the_decoder_says(
    patient: None, client: Client, decoders: list[Decoder]
) -> None:
    for image in (b"another image", b"another image", IMAGE):
        client.segment(image, CLICK, box=(-0.4, 5, 100.3, 40), clamp=True)
    boxes = [box for decoder in decoders for box in decoder.boxes]
    assert [(box.x0, box.y0, box.x1, box.y1) for box in boxes] == [(0, 5, 100, 40)] * 3
    assert sum(decoder.opened for decoder in decoders) == 2  # once for each image
    with client.interact(IMAGE) as stream:
        stream.step(box=(-0.4, 5, 100.3, 40), clamp=True)


def test_pings_on_an_idle_stream_do_not_end_it(
    decoders: list[Decoder], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(channel, "KEEPALIVE_MS", 1000)
    monkeypatch.setattr(decoder_server, "SHORTEST_PING_INTERVAL_MS", 10)
    address = request.getfixturevalue("address")
    with Client(address, address, timeout=CAP) as client, client.interact(IMAGE) as stream:
        stream.step(CLICK)
        time.sleep(5)  # five pings; the third too many would end the connection
        stream.step(CLICK)


def test_metadata_that_would_break_the_connection_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"metadata: 60,003 bytes; the limit is 8,192"):
        Client("127.0.0.1:1", "127.0.0.1:1", metadata=[("key", "x" * 60_000)])
