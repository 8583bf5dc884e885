"""The path of a click through the real stack."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from samserve.client import Box, Click, Client, Prompt
from samserve.core.errors import EmbeddingNotCached, InvalidInput, ModelNotFound
from samserve.core.image_id import image_id
from samserve.local.process import free_port
from samserve.local.stack import Stack
from samserve.v1 import embedding_pb2, embedding_pb2_grpc, segmentation_pb2, segmentation_pb2_grpc
from samserve.v1 import types_pb2 as types
from samserve.wire.status import DETAILS_KEY
from stacks import CAP, Encodes, Photos, metric, metrics_of, stopped, until

SLOTS, QUEUE = 24, 64  # of a replica: images under way at once, and that wait
CLICK = [Click(100, 80)]


def test_same_bytes_sent_twice_are_encoded_once(
    client: Client, encoded: Encodes, new_photo: Photos
) -> None:
    photo, before = new_photo(), encoded()
    first, second = client.segment(photo, CLICK), client.segment(photo, CLICK)
    assert (first.cache.name, second.cache.name) == ("MISS", "HIT")
    assert first.timings_ms["embedding"] > first.timings_ms["embedding.encode"] > 0
    assert "embedding.encode" not in second.timings_ms
    assert (encoded() - before).images == 1
    assert first.image_id == second.image_id == image_id(photo)
    for one, other in zip(first.masks, second.masks, strict=True):
        assert np.array_equal(one.array(), other.array())


def test_eight_images_at_once_are_encoded_in_batches(
    client: Client, encoded: Encodes, new_photo: Photos
) -> None:
    for _ in range(5):  # on a busy machine the eight may arrive one by one
        photos, before = [new_photo() for _ in range(8)], encoded()
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(client.embed, photos))
        assert {answer.cache.name for answer in answers} == {"MISS"}
        done = encoded() - before
        assert done.images == 8
        if done.runs < 8:
            return
    pytest.fail("each image was encoded alone")


def test_images_of_one_batch_are_not_confused(client: Client, new_photo: Photos) -> None:
    photos = [new_photo(200 + 10 * n, 300) for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda photo: client.segment(photo, CLICK), photos))
    for n, answer in enumerate(together):
        assert (answer.size.width, answer.size.height) == (200 + 10 * n, 300)
    areas = [answer.masks[0].area for answer in together]
    assert len(set(areas)) > 1


def test_a_decoder_that_never_saw_the_image_answers_from_redis(
    stack: Stack, client: Client, encoded: Encodes, new_photo: Photos
) -> None:
    photo = new_photo()
    known = client.segment(photo, CLICK)
    port, before = free_port(), encoded()
    stack.start_decoder("second decoder", port, 0)
    try:
        with Client(f"127.0.0.1:{port}", stack.addresses.embedding, timeout=CAP) as other:
            answer = other.segment(photo, CLICK)
    finally:
        stack.programs.pop("second decoder").stop()
    assert answer.cache.name == "HIT"
    assert (encoded() - before).images == 0
    assert np.array_equal(answer.masks[0].array(), known.masks[0].array())


def test_without_redis_callers_who_send_bytes_are_answered(
    stack: Stack, client: Client, new_photo: Photos
) -> None:
    old, new = new_photo(), new_photo()
    before = client.segment(old, CLICK)
    port = free_port()
    stack.programs["redis"].kill()
    try:
        stack.start_decoder("cold decoder", port, 0)
        with Client(f"127.0.0.1:{port}", stack.addresses.embedding, timeout=CAP) as cold:
            again = cold.segment(old, CLICK)  # a hit, were Redis there
            assert again.cache.name == "MISS"
            assert np.array_equal(again.masks[0].array(), before.masks[0].array())
            assert cold.segment(new, CLICK).cache.name == "MISS"
            assert cold.segment(new, CLICK).cache.name == "HIT"  # this process kept it
    finally:
        stack.programs.pop("cold decoder").stop()
        stack.start_redis()
    assert client.embed(new).cache.name == "MISS"
    # Redis is bypassed for a while after it failed.
    until(lambda: client.embed(new).cache.name == "HIT")


def test_without_triton_callers_are_told_to_retry_and_hits_go_on(
    stack: Stack, client: Client, new_photo: Photos
) -> None:
    known, new = new_photo(), new_photo()
    client.embed(known)
    stack.programs["triton"].kill()
    try:
        assert client.embed(known).cache.name == "HIT"
        assert len(client.segment(known, CLICK).masks) == 3
        for service in ("embedding", "segmentation"):
            retry = details.RetryInfo()
            assert _refusal(stack, service, retry, data=new) is grpc.StatusCode.UNAVAILABLE
            assert retry.retry_delay.ToTimedelta()
    finally:
        stack.start_triton()
    assert client.segment(new, CLICK).cache.name == "MISS"


def test_all_kinds_of_prompt_are_answered_in_one_call(client: Client, coins: Path) -> None:
    first = client.segment(coins, [Click(213, 193)], low_res_logits=True)
    answer = client.predict(
        coins,
        [
            Prompt([Click(213, 193)]),
            Prompt([Click(213, 193), Click(20, 20, on=False)]),
            Prompt(box=Box(260, 100, 310, 150), multimask=False),
            Prompt([Click(213, 193)], mask_input=first.masks[0].low_res_logits),
        ],
    )
    assert [len(masks) for masks in answer.results] == [3, 3, 1, 3]
    assert np.array_equal(answer.masks[0].array(), first.masks[0].array())


def test_clicks_of_one_stream_refine_each_other(
    client: Client, encoded: Encodes, new_photo: Photos
) -> None:
    photo, before, clicks = new_photo(), encoded(), [*CLICK, Click(20, 20, on=False)]
    with client.interact(photo) as shown:
        assert shown.image.cache.name == "MISS"
    with client.interact(photo) as shown:
        assert (shown.image.cache.name, shown.image.image_id) == ("HIT", image_id(photo))
        first, second = shown.step(CLICK), shown.step(clicks)
    assert (encoded() - before).images == 1
    alone = client.segment(photo, CLICK, low_res_logits=True)
    refined = client.segment(
        photo, clicks, mask_input=alone.masks[0].low_res_logits, multimask=False
    )
    assert (len(first.masks), len(second.masks)) == (3, 1)
    for one, other in zip(first.masks + second.masks, alone.masks + refined.masks, strict=True):
        assert np.array_equal(one.array(), other.array())


def test_health_reflection_and_metrics_tell_of_the_decoder(
    stack: Stack, client: Client, coins: Path
) -> None:
    client.segment(coins, CLICK)
    with grpc.insecure_channel(stack.addresses.decoder) as channel:
        check = health_pb2.HealthCheckRequest(service="samserve.v1.SegmentationService")
        assert (
            health_pb2_grpc.HealthStub(channel).Check(check).status
            == health_pb2.HealthCheckResponse.SERVING
        )
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        (listed,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked)
        names = {service.name for service in listed.list_services_response.service}
    assert "samserve.v1.SegmentationService" in names
    metrics = metrics_of(stack.addresses.decoder_metrics)
    assert 'samserve_requests_total{code="OK",method="Predict"}' in metrics
    assert 'samserve_stage_seconds_bucket{le="0.1",stage="decode"}' in metrics
    assert "samserve_resident_bytes" in metrics


def test_sigterm_lets_a_decoder_finish_what_it_has_begun(stack: Stack, coins: Path) -> None:
    port, metrics_port = free_port(), free_port()
    stack.start_decoder("leaving decoder", port, metrics_port, {"SAMSERVE_DRAIN_S": CAP})
    leaving = stack.programs.pop("leaving decoder")
    with (
        Client(f"127.0.0.1:{port}", stack.addresses.embedding, timeout=CAP) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        client.segment(coins, CLICK)
        many = [Prompt([Click(10 + n, 10 + n)]) for n in range(16)]  # more would be several calls
        while True:  # until a call is seen that has been begun and not answered
            call = pool.submit(client.predict, coins, many)
            until(lambda: call.done() or decoding(metrics_port))  # noqa: B023
            if not call.done():
                break
        leaving.stop(CAP)
        assert len(call.result().results) == 16
    assert "drained" in leaving.log.read_text()


def decoding(metrics_port: int) -> float:
    """Predict calls that a decoder has begun and not answered."""
    return metric(f"127.0.0.1:{metrics_port}", "samserve_requests_in_progress", method="Predict")


BAD_IMAGES = {
    "empty": (b"", "empty"),
    "not an image": (
        b"GIF89a, but no more than that",
        "header cannot be read|damaged",
    ),
    "text": (b"hello", "unsupported or damaged image"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
@pytest.mark.parametrize("service", ["embedding", "segmentation"])
def test_a_bad_image_is_refused_by_both_services_alike(
    stack: Stack, client: Client, coins: Path, service: str, name: str
) -> None:
    data, _ = BAD_IMAGES[name]
    detail = details.BadRequest()
    assert _refusal(stack, service, detail, data=data) is grpc.StatusCode.INVALID_ARGUMENT
    assert detail.field_violations[0].field == "data"
    assert client.segment(coins, CLICK).masks


@pytest.mark.parametrize("service", ["embedding", "segmentation"])
def test_a_truncated_photo_is_refused_by_both_services_alike(
    stack: Stack, client: Client, coins: Path, service: str
) -> None:
    detail = details.BadRequest()
    half = coins.read_bytes()[:30_000]
    assert _refusal(stack, service, detail, data=half) is grpc.StatusCode.INVALID_ARGUMENT
    assert "truncated" in detail.field_violations[0].description
    assert client.segment(coins, CLICK).masks


@pytest.mark.parametrize("megabytes", [33, 40])
def test_an_oversized_image_is_refused_in_a_sentence(
    client: Client, coins: Path, megabytes: int
) -> None:
    oversized = bytes(megabytes * 2**20)
    for call in (lambda: client.embed(oversized), lambda: client.segment(oversized, CLICK)):
        with pytest.raises(InvalidInput, match=r"the limit is|larger than") as caught:
            call()
        assert caught.value.field == "data"
    assert client.segment(coins, CLICK).masks


@pytest.mark.parametrize("service", ["embedding", "segmentation"])
def test_an_unknown_model_is_refused_by_both_services_alike(
    stack: Stack, coins: Path, service: str
) -> None:
    info = details.ErrorInfo()
    data = coins.read_bytes()
    assert _refusal(stack, service, info, data=data, model="sam9") is grpc.StatusCode.NOT_FOUND
    assert (info.reason, info.metadata["known"]) == ("MODEL_NOT_FOUND", "nano")
    with Client(stack.addresses.decoder, stack.addresses.embedding, model="sam9") as lost:
        with pytest.raises(ModelNotFound, match="nano"):
            lost.segment(data, CLICK)
        with pytest.raises(ModelNotFound, match="nano"):
            lost.embed(data)


@pytest.mark.parametrize("service", ["embedding", "segmentation"])
def test_an_image_that_is_not_there_must_be_sent(stack: Stack, service: str) -> None:
    info = details.ErrorInfo()
    assert _refusal(stack, service, info, image="00" * 32) is grpc.StatusCode.NOT_FOUND
    assert info.reason == "EMBEDDING_NOT_CACHED"
    assert EmbeddingNotCached(info.metadata["image_id"]).image_id == "00" * 32


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        (None, "prompts"),
        (segmentation_pb2.Prompt(), "prompts[0]"),
        (segmentation_pb2.Prompt(points=[types.Point(x=5000, y=5)]), "prompts[0].points"),
        (segmentation_pb2.Prompt(points=[types.Point(x=float("nan"), y=5)]), "prompts[0].points"),
        (segmentation_pb2.Prompt(box=types.Box(x0=5, y0=5, x1=1, y1=9)), "prompts[0].box"),
    ],
)
def test_a_bad_prompt_is_refused_by_field(
    stack: Stack, client: Client, coins: Path, prompt: segmentation_pb2.Prompt | None, field: str
) -> None:
    detail = details.BadRequest()
    prompts = [] if prompt is None else [prompt]
    code = _refusal(stack, "segmentation", detail, data=coins.read_bytes(), prompts=prompts)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert detail.field_violations[0].field == field
    assert client.segment(coins, CLICK).masks


def _refusal(
    stack: Stack,
    service: str,
    detail: details.BadRequest | details.ErrorInfo | details.RetryInfo,
    data: bytes | None = None,
    image: str = "",
    model: str = "",
    prompts: list[segmentation_pb2.Prompt] | None = None,
) -> grpc.StatusCode:
    """Send a bad request over the bare wire; its code, with `detail` filled in."""
    address = stack.addresses.embedding if service == "embedding" else stack.addresses.decoder
    with grpc.insecure_channel(address) as channel:
        if service == "embedding":
            given = {"data": data} if data is not None else {"image_id": image}
            call = embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed
            request = embedding_pb2.EmbedRequest(model=model, **given)
        else:
            given = {"data": data} if data is not None else {"ref": types.ImageRef(image_id=image)}
            call = segmentation_pb2_grpc.SegmentationServiceStub(channel).Predict
            usual = [segmentation_pb2.Prompt(points=[types.Point(x=100, y=80)])]
            asked = usual if prompts is None else prompts
            request = segmentation_pb2.PredictRequest(model=model, prompts=asked, **given)
        with pytest.raises(grpc.RpcError) as caught:
            call(request, timeout=CAP)
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())[DETAILS_KEY])
    assert status.details[0].Unpack(detail), status
    assert status.message == caught.value.details()
    return caught.value.code()


def waiting(stack: Stack, priority: str) -> float:
    """Images that wait for a slot of the embedding service."""
    return metric(stack.addresses.embedding_metrics, "samserve_embed_waiting", priority=priority)


def test_an_image_that_a_person_waits_for_overtakes_a_data_set(
    stack: Stack, client: Client, new_photo: Photos
) -> None:
    done: list[int] = []

    def embed(priority: int) -> None:
        stub.Embed(embedding_pb2.EmbedRequest(data=new_photo(), priority=priority), timeout=CAP)
        done.append(priority)

    bulk, interactive = embedding_pb2.PRIORITY_BULK, embedding_pb2.PRIORITY_INTERACTIVE
    client.embed(new_photo())  # the replica knows the encoder by now, and does not ask Triton
    with (
        grpc.insecure_channel(stack.addresses.embedding) as channel,
        ThreadPoolExecutor(64) as pool,
    ):
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        with stopped(stack, "triton"):
            calls = [pool.submit(embed, bulk) for _ in range(2 * SLOTS)]
            until(lambda: waiting(stack, "bulk") == SLOTS)
            calls.append(pool.submit(embed, interactive))
            until(lambda: waiting(stack, "interactive") == 1)
        for call in calls:
            call.result()
    assert done.index(interactive) < 36  # of 48; without priorities it would be the last


def test_images_beyond_the_slots_and_the_queue_are_refused_with_a_time(
    stack: Stack, client: Client, new_photo: Photos
) -> None:
    beyond = 11
    client.embed(new_photo())  # the replica knows the encoder by now, and does not ask Triton
    requests = [embedding_pb2.EmbedRequest(data=new_photo()) for _ in range(SLOTS + QUEUE + beyond)]
    with (
        grpc.insecure_channel(stack.addresses.embedding) as channel,
        stopped(stack, "triton"),  # no image leaves its slot
    ):
        embed = embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed
        calls = [embed.future(request, timeout=CAP) for request in requests]
        until(lambda: sum(call.done() for call in calls) == beyond)
        until(lambda: waiting(stack, "interactive") == QUEUE)
        refusals = [call for call in calls if call.done()]
        for call in calls:
            call.cancel()

    assert len(refusals) == beyond
    for refusal in refusals:
        assert refusal.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        sent = next(value for key, value in refusal.trailing_metadata() if key == DETAILS_KEY)
        (detail,) = status_pb2.Status.FromString(sent).details
        assert detail.Is(details.RetryInfo.DESCRIPTOR)
