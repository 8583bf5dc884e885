"""Every limit of a request: its value passes, one more is refused before anything is looked for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import grpc
import grpc.aio
import pytest
import structlog
from contract.calls import CAP, FIRST, ID, Stream, opening, prompt, step
from contract.conftest import SIZE, Service
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2
from samserve.client import Click, Client, Prompt
from samserve.core.errors import InvalidInput
from samserve.core.limits import RequestLimits
from samserve.decoder.masks import write
from samserve.infra.settings import DecoderSettings
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import types_pb2 as types
from samserve.wire.status import DETAILS_KEY, error_of
from structlog.testing import capture_logs
from structlog.typing import EventDict

CLICK = prompt(FIRST)
BITS = pb.OutputOptions(formats=[pb.MASK_FORMAT_BITS])
BITS_BYTES = SIZE.height * SIZE.width // 8  # of one mask


def points(count: int) -> pb.Prompt:
    return prompt([(x % SIZE.width, 50, True) for x in range(count)])


def labelled(*labels: int) -> pb.Prompt:
    return pb.Prompt(points=[types.Point(x=9, y=9, label=label) for label in labels])


def known(*prompts: pb.Prompt, **fields: object) -> pb.PredictRequest:
    return pb.PredictRequest(ref=types.ImageRef(image_id=ID), prompts=prompts, **fields)


def new(*prompts: pb.Prompt, **fields: object) -> pb.PredictRequest:
    return pb.PredictRequest(data=b"a new image", prompts=prompts or [CLICK], **fields)


def formats(*values: int) -> pb.OutputOptions:
    return pb.OutputOptions(formats=values)


class Refusal:
    """The BadRequest of a call or a step that was refused."""

    def __init__(self, status: status_pb2.Status) -> None:
        bad = details.BadRequest()
        assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0], status
        assert status.details[0].Unpack(bad)
        self.field = bad.field_violations[0].field
        self.message = status.message
        self.size = status.ByteSize()


async def refused(service: Service, request: pb.PredictRequest, **call: object) -> Refusal:
    """Return the refusal; the image must not have been looked for, nor a prompt decoded."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.stub.Predict(request, **call)
    trailing = dict(caught.value.trailing_metadata())
    assert service.embeddings.looked_for == 0
    assert service.decoder.decoded == []
    return Refusal(status_pb2.Status.FromString(trailing[DETAILS_KEY]))


@pytest.fixture
def lines() -> Iterator[list[EventDict]]:
    with capture_logs([structlog.contextvars.merge_contextvars]) as written:
        yield written


async def test_a_prompt_of_eight_thousand_points_is_refused(service: Service) -> None:
    refusal = await refused(service, new(CLICK, CLICK, CLICK, points(8_000)))
    assert refusal.field == "prompts[3].points"
    assert refusal.message == "prompts[3].points: 8,000 points; the limit is 64"


async def test_a_call_of_ten_thousand_prompts_is_told_how_many_it_may_have(
    service: Service,
) -> None:
    refusal = await refused(service, new(*[CLICK] * 10_000))
    assert refusal.field == "prompts"
    assert refusal.message == "prompts: 10,000 prompts in one call; the limit is 64"


async def test_a_prompt_of_as_many_points_as_allowed_is_answered(service: Service) -> None:
    service.embeddings.known.add(ID)
    assert (await service.stub.Predict(known(points(64)))).results
    service.embeddings.looked_for = 0
    service.decoder.decoded.clear()
    assert (await refused(service, known(points(65)))).field == "prompts[0].points"


class TestOfAFewPrompts:
    @pytest.fixture
    def limits(self) -> RequestLimits:
        return RequestLimits(prompts=3, points=5, answer_bytes=2**20)

    async def test_as_many_prompts_as_allowed_are_answered(self, service: Service) -> None:
        service.embeddings.known.add(ID)
        assert len((await service.stub.Predict(known(*[CLICK] * 3))).results) == 3
        service.embeddings.looked_for = 0
        service.decoder.decoded.clear()
        refusal = await refused(service, known(*[CLICK] * 4))
        assert refusal.message == "prompts: 4 prompts in one call; the limit is 3"

    async def test_a_step_over_the_limit_is_answered_and_the_stream_continues(
        self, service: Service
    ) -> None:
        service.embeddings.known.add(ID)
        stream = Stream(service)
        await stream.open()

        (over,) = await stream.ask(step(1, points(6)))
        refusal = Refusal(over.error)
        assert (over.step, refusal.field) == (1, "prompt.points")
        assert refusal.message == "prompt.points: 6 points; the limit is 5"
        assert service.decoder.decoded == []

        (at,) = await stream.ask(step(2, points(5)))
        assert len(at.masks) == 3
        stream.call.cancel()


@pytest.mark.parametrize(("label", "text"), [(-1, "-1"), (3, "3"), (99, "99")])
async def test_an_unknown_label_is_refused(service: Service, label: int, text: str) -> None:
    refusal = await refused(service, new(CLICK, labelled(1, label)))
    assert refusal.field == "prompts[1].points[1].label"
    assert f"unknown label {text};" in refusal.message


async def test_an_unknown_label_of_a_step_is_refused(service: Service) -> None:
    service.embeddings.known.add(ID)
    stream = Stream(service)
    await stream.open()
    (answer,) = await stream.ask(step(1, labelled(2, 7)))
    assert Refusal(answer.error).field == "prompt.points[1].label"
    stream.call.cancel()


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (formats(9), "unknown format 9"),
        (formats(1, -1), "unknown format -1"),
        (formats(*[1] * 6), "6 formats; the limit is 5"),
    ],
)
async def test_formats_are_the_known_ones_each_once(
    service: Service, output: pb.OutputOptions, text: str
) -> None:
    refusal = await refused(service, new(output=output))
    assert refusal.field == "output.formats"
    assert text in refusal.message

    call = service.stub.Interact()
    await call.write(opening(data=b"a new image", output=output))
    with pytest.raises(grpc.aio.AioRpcError, match=text):
        await call.read()
    assert service.embeddings.looked_for == 0


async def test_every_format_at_once_is_within_the_limit(service: Service) -> None:
    service.embeddings.known.add(ID)
    answer = await service.stub.Predict(known(CLICK, output=formats(0, 1, 2, 3, 4)))
    assert answer.results[0].masks[0].png


@pytest.mark.parametrize(
    ("field", "long"),
    [
        ("model", {"model": "m" * 65}),
        ("expected_image_id", {"expected_image_id": "a" * 65}),
        ("ref.model_version", {"ref": types.ImageRef(image_id=ID, model_version="v" * 65)}),
    ],
)
async def test_a_long_string_is_refused(
    service: Service, field: str, long: dict[str, object]
) -> None:
    image = {} if "ref" in long else {"data": b"a new image"}
    refusal = await refused(service, pb.PredictRequest(prompts=[CLICK], **image, **long))
    assert refusal.field == field
    assert refusal.message == f"{field}: 65 characters; the limit is 64"


@pytest.mark.parametrize(
    "request_fields",
    [
        {"ref": types.ImageRef(image_id=ID, model_version="v" * 2**20)},
        {"ref": types.ImageRef(image_id="i" * 2**20)},
        {"data": b"a new image", "expected_image_id": "a" * 2**20},
        {"data": b"a new image", "model": "m" * 2**20},
    ],
)
async def test_a_string_of_a_mebibyte_comes_back_in_no_message_and_no_log(
    service: Service, lines: list[EventDict], request_fields: dict[str, object]
) -> None:
    refusal = await refused(service, pb.PredictRequest(prompts=[CLICK], **request_fields))
    assert refusal.size < 500
    assert sum(len(str(line)) for line in lines) < 1_000


async def test_a_tenant_and_a_model_are_echoed_in_part(service: Service) -> None:
    tenant = (("samserve-tenant", "x" * 5_000),)
    refusal = await refused(service, new(), metadata=tenant)
    assert refusal.field == "samserve-tenant"
    assert "x" * 97 + "..." in refusal.message
    assert refusal.size < 500


async def test_metadata_have_a_limit(service: Service) -> None:
    keys = tuple((f"key-{index}", "v" * 1_000) for index in range(8))
    service.embeddings.known.add(ID)
    assert (await service.stub.Predict(known(CLICK), metadata=keys)).results
    service.embeddings.looked_for = 0
    service.decoder.decoded.clear()

    refusal = await refused(service, known(CLICK), metadata=(*keys, ("one-more", "v" * 200)))
    assert refusal.field == "metadata"
    assert refusal.message.endswith("bytes; the limit is 8,192")


async def test_far_too_large_metadata_are_no_overload(service: Service) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.stub.Predict(known(CLICK), metadata=(("key", "v" * 60_000),))
    error = error_of(caught.value, "the decoder")
    assert isinstance(error, InvalidInput)
    assert error.field == "metadata"


async def test_a_request_id_has_at_most_64_characters(service: Service) -> None:
    service.embeddings.known.add(ID)
    for sent, kept in (("x" * 64, True), ("x" * 65, False)):
        call = service.stub.Predict(known(CLICK), metadata=(("x-request-id", sent),))
        await call
        assert (dict(await call.trailing_metadata())["x-request-id"] == sent) is kept


class TestOfASmallAnswer:
    """One byte less than three masks of bits."""

    @pytest.fixture
    def limits(self) -> RequestLimits:
        return RequestLimits(prompts=64, points=64, answer_bytes=3 * BITS_BYTES - 1)

    async def test_bits_over_the_limit_are_refused_before_a_prompt_is_decoded(
        self, service: Service
    ) -> None:
        service.embeddings.known.add(ID)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.stub.Predict(known(CLICK, output=BITS))
        packed = dict(caught.value.trailing_metadata())[DETAILS_KEY]
        refusal = Refusal(status_pb2.Status.FromString(packed))
        assert refusal.field == "output.formats"
        assert "24,000 bytes or more; the limit is 23,999" in refusal.message
        assert "fewer prompts" in refusal.message
        assert service.decoder.decoded == []

    async def test_fewer_masks_are_answered(self, service: Service) -> None:
        service.embeddings.known.add(ID)
        two = pb.OutputOptions(formats=BITS.formats, max_masks=2)
        assert len((await service.stub.Predict(known(CLICK, output=two))).results[0].masks) == 2
        one = pb.Prompt(points=CLICK.points, multimask=False)
        assert (await service.stub.Predict(known(one, one, output=BITS))).results

    async def test_a_step_over_the_limit_is_answered_and_the_stream_continues(
        self, service: Service
    ) -> None:
        service.embeddings.known.add(ID)
        call = service.stub.Interact(timeout=CAP)
        await call.write(opening(ref=types.ImageRef(image_id=ID), output=BITS))
        await call.read()
        await call.write(step(1, CLICK))
        refusal = Refusal((await call.read()).answer.error)
        assert refusal.field == "output.formats"
        assert service.decoder.decoded == []

        await call.write(step(2, pb.Prompt(points=CLICK.points, multimask=False)))
        assert len((await call.read()).answer.masks) == 1
        call.cancel()

    async def test_the_client_learns_that_the_answer_is_too_large_not_the_image(
        self, service: Service
    ) -> None:
        def predict() -> None:
            with Client(service.address, service.address) as client:
                client.predict(b"the image", [Prompt([Click(100, 50)])], formats=["bits"])

        with pytest.raises(InvalidInput, match="fewer masks") as caught:
            await asyncio.to_thread(predict)
        assert caught.value.field == "output.formats"


class TestOfAnAnswerThatGrows:
    """The size of PNGs and polygons is known only as they are written."""

    @pytest.fixture
    def limits(self) -> RequestLimits:
        return RequestLimits(prompts=64, points=64, answer_bytes=500)

    async def test_writing_stops_once_the_answer_is_too_large(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written: list[object] = []
        write_mask = write.write_mask

        def count(*args: object) -> write.MaskAnswer:
            written.append(args)
            return write_mask(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(write, "write_mask", count)
        service.embeddings.known.add(ID)
        output = formats(pb.MASK_FORMAT_PNG, pb.MASK_FORMAT_POLYGONS)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.stub.Predict(known(*[CLICK] * 16, output=output))

        packed = dict(caught.value.trailing_metadata())[DETAILS_KEY]
        assert Refusal(status_pb2.Status.FromString(packed)).field == "output.formats"
        assert 1 <= len(written) <= 3, "one, and what two threads had begun"


async def test_millions_of_points_are_refused_before_they_are_parsed(service: Service) -> None:
    prompt = b"\x22" + b"\x80\x80\x80\x01" + b"\x0a\x00" * 2**20  # field 4 of 2 MiB: empty points
    async with grpc.aio.insecure_channel(service.address) as channel:
        predict = channel.unary_unary("/samserve.v1.SegmentationService/Predict")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await predict(prompt)

    packed = dict(caught.value.trailing_metadata())[DETAILS_KEY]
    assert Refusal(status_pb2.Status.FromString(packed)).field == "request"
    assert service.embeddings.looked_for == 0


def test_the_defaults_are_the_documented_ones() -> None:
    limits = DecoderSettings().request_limits
    assert limits == RequestLimits(prompts=64, points=64, answer_bytes=32 * 2**20)
