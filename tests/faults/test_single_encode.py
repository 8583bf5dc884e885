"""Two replicas of the embedding service, and many callers that want the same new image at once."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from redis import Redis
from samserve.client import Click, Client
from samserve.core.caller import DEFAULT_TENANT
from samserve.core.errors import DeadlinePassed
from samserve.core.image_id import image_id
from samserve.infra.cache import CacheKey
from samserve.local.stack import Stack
from samserve.v1 import embedding_pb2 as pb
from samserve.v1 import embedding_pb2_grpc as rpc
from samserve.v1 import segmentation_pb2, segmentation_pb2_grpc
from samserve.v1 import types_pb2 as types
from samserve.wire.channel import message_limits
from stacks import CAP, Encodes, Photos, metric, stopped, until

CALLERS = 64
EXPIRY = 5.0  # seconds: a dead holder's claim lasts no longer
REPLICAS = 2
FAILURES, REST = 3, 2.0  # of the circuit breaker: in a row; seconds
CLICK = [Click(100, 80)]


@pytest.fixture
def redis(stack: Stack) -> Iterator[Redis]:
    with Redis.from_url(stack.addresses.redis) as redis:
        yield redis


def embeds(stack: Stack) -> float:
    """Embed calls that both replicas have begun and not answered."""
    return metric(
        stack.addresses.embedding_metrics, "samserve_requests_in_progress", method="Embed"
    )


def clicks(stack: Stack) -> float:
    """Predict calls that the decoder has begun and not answered."""
    return metric(
        stack.addresses.decoder_metrics, "samserve_requests_in_progress", method="Predict"
    )


@pytest.fixture(autouse=True)
def both_replicas_know_triton(client: Client, new_photo: Photos) -> None:
    """Triton may then stand still: a replica that never asked it cannot name a cache entry."""
    known = new_photo()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(client.embed, [known] * 64))


def claim_of(client: Client, photo: bytes, known: bytes) -> str:
    return f"{CacheKey(DEFAULT_TENANT, client.embed(known).model_version, image_id(photo))}:claim"


def test_64_callers_over_two_replicas_are_one_encode(
    stack: Stack, encoded: Encodes, new_photo: Photos
) -> None:
    photo, before = new_photo(), encoded()
    with (
        grpc.insecure_channel(stack.addresses.embedding, message_limits(2**25)) as channel,
        ThreadPoolExecutor(CALLERS) as pool,
    ):
        embed = rpc.EmbeddingServiceStub(channel).Embed
        request = pb.EmbedRequest(
            data=photo, include_embedding=True, expected_image_id=image_id(photo)
        )
        with stopped(stack, "triton"):
            calls = [pool.submit(embed, request, timeout=CAP) for _ in range(CALLERS)]
            until(lambda: embeds(stack) == CALLERS)
        answers = [call.result() for call in calls]
    done = encoded() - before
    assert (done.images, done.runs) == (1, 1)
    names = Counter(types.CacheStatus.Name(a.cache) for a in answers)
    assert names["CACHE_STATUS_MISS"] == 1
    assert names["CACHE_STATUS_COALESCED"] + names["CACHE_STATUS_HIT"] == CALLERS - 1
    assert {a.image.SerializeToString() for a in answers} == {answers[0].image.SerializeToString()}
    assert {a.embedding.data for a in answers} == {answers[0].embedding.data}


def test_when_the_holder_is_killed_another_replica_takes_over_and_no_caller_loses(
    stack: Stack, client: Client, encoded: Encodes, new_photo: Photos, redis: Redis
) -> None:
    photo, known = new_photo(), new_photo()
    claim, before = claim_of(client, photo, known), encoded()
    with ThreadPoolExecutor(CALLERS) as pool:
        with stopped(stack, "triton"):
            half = CALLERS // 2
            embedding = [pool.submit(client.embed, photo) for _ in range(half)]
            clicking = [pool.submit(client.segment, photo, CLICK) for _ in range(half)]
            until(lambda: embeds(stack) > half and clicks(stack) == half and redis.get(claim))
            holder = redis.get(claim)
            assert isinstance(holder, bytes)
            os.kill(int(holder.split(b":")[1]), signal.SIGKILL)
            assert redis.pttl(claim) <= 1000 * EXPIRY
            until(lambda: redis.get(claim) not in (holder, None))
        answers = [call.result() for call in (*embedding, *clicking)]
    # One encode was finished for a caller. The killed replica's may have been run too.
    statuses = Counter(answer.cache.name for answer in answers)
    assert statuses["MISS"] == 1
    assert statuses["COALESCED"] + statuses["HIT"] == CALLERS - 1
    assert (encoded() - before).images in (1, 2)
    assert {(a.image_id, a.model_version, a.size) for a in answers} == {
        (image_id(photo), answers[0].model_version, answers[0].size)
    }
    masks = [call.result().masks[0].array() for call in clicking]
    assert all(np.array_equal(mask, masks[0]) for mask in masks)


def test_work_whose_callers_have_gone_is_not_begun(
    client: Client, stack: Stack, encoded: Encodes, new_photo: Photos, redis: Redis
) -> None:
    photo, known = new_photo(), new_photo()
    claim = claim_of(client, photo, known)
    redis.set(claim, "another replica")
    before = encoded()
    with (
        Client(stack.addresses.decoder, stack.addresses.embedding, timeout=0.7) as hasty,
        pytest.raises(DeadlinePassed),
    ):
        hasty.embed(photo)
    redis.delete(claim)
    time.sleep(0.5)  # a caller that still waited would take over
    assert redis.get(claim) is None
    assert (encoded() - before).images == 0
    assert client.embed(photo).cache.name == "MISS"


def test_while_redis_stands_still_answers_are_right_and_redis_is_bypassed(
    stack: Stack, client: Client, new_photo: Photos
) -> None:
    known, photos = new_photo(), [new_photo() for _ in range(4)]
    right = client.segment(known, CLICK).masks[0].array()

    def operations(outcome: str) -> float:
        address = stack.addresses.embedding_metrics
        return metric(address, "samserve_cache_outcomes_total", outcome=outcome)

    with stopped(stack, "redis"), ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda photo: client.segment(photo, CLICK), photos * 2))
        # A replica opens its circuit at the third failure, and then tries Redis once a rest.
        before, began = (operations("error"), operations("bypassed")), time.monotonic()
        for _ in range(12):
            assert client.embed(new_photo()).cache.name == "MISS"
        most = REPLICAS * (FAILURES + (time.monotonic() - began) / REST)
        assert operations("error") - before[0] <= most
        assert operations("bypassed") > before[1]
        assert np.array_equal(client.segment(known, CLICK).masks[0].array(), right)
        assert client.segment(photos[0], CLICK).cache.name == "HIT"  # the decoder kept it
    for answer, again in zip(answers[:4], answers[4:], strict=True):
        assert np.array_equal(answer.masks[0].array(), again.masks[0].array())
    until(lambda: client.embed(photos[0]).cache.name == "HIT")


def test_bytes_that_are_not_those_the_caller_hashed_are_refused_by_both_services(
    stack: Stack, encoded: Encodes, new_photo: Photos
) -> None:
    photo, before = new_photo(), encoded()
    wrong = image_id(b"another photo")
    with (
        grpc.insecure_channel(stack.addresses.embedding) as embedding,
        grpc.insecure_channel(stack.addresses.decoder) as decoder,
    ):
        prompt = segmentation_pb2.Prompt(points=[types.Point(x=100, y=80)])
        for call, request in (
            (
                rpc.EmbeddingServiceStub(embedding).Embed,
                pb.EmbedRequest(data=photo, expected_image_id=wrong),
            ),
            (
                segmentation_pb2_grpc.SegmentationServiceStub(decoder).Predict,
                segmentation_pb2.PredictRequest(
                    data=photo, expected_image_id=wrong, prompts=[prompt]
                ),
            ),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(request, timeout=CAP)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert wrong in str(caught.value.details())
    assert (encoded() - before).images == 0


def test_metrics_count_the_answers_of_all_replicas_on_one_port(
    stack: Stack, client: Client, new_photo: Photos
) -> None:
    def counted(cache: str) -> float:
        address = stack.addresses.embedding_metrics
        assert metric(address, "samserve_requests_total", code="OK", method="Embed")
        return metric(address, "samserve_embedded_total", cache=cache, model="nano")

    photos = [new_photo() for _ in range(8)]
    client.embed(new_photo())
    before = counted("miss"), counted("hit")
    for photo in photos * 2:
        client.embed(photo)
    assert (counted("miss") - before[0], counted("hit") - before[1]) == (8, 8)
