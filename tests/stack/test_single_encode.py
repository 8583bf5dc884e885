"""Two replicas of the embedding service, and many who want the same new image at once."""

from __future__ import annotations

import os
import re
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
from redis import Redis
from samserve.client import Click, Client
from samserve.core.errors import DeadlinePassed
from samserve.core.image_id import image_id
from samserve.infra.cache import CacheKey
from samserve.local.stack import Stack, StackOptions
from samserve.v1 import embedding_pb2 as pb
from samserve.v1 import embedding_pb2_grpc as rpc
from samserve.v1 import segmentation_pb2, segmentation_pb2_grpc
from samserve.v1 import types_pb2 as types
from samserve.wire.metadata import DEFAULT_TENANT, message_limits
from triton_api import Encoded

Photos = Callable[..., bytes]
Counted = Callable[[], Encoded]
CALLERS = 64
EXPIRY = 5.0  # seconds: a dead holder's claim lasts no longer
CLICK = [Click(100, 80)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(StackOptions(replicas=2), tmp_path_factory.mktemp("two-replicas"))
    stack.start()
    yield stack
    stack.stop()


@pytest.fixture
def redis(stack: Stack) -> Iterator[Redis]:
    with Redis.from_url(stack.addresses.redis) as redis:
        yield redis


@contextmanager
def stopped(stack: Stack, name: str) -> Iterator[None]:
    """A program of the stack stands still for the length of the block."""
    pid = stack.programs[name].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture(autouse=True)
def both_replicas_know_triton(client: Client, new_photo: Photos) -> None:
    """So that it may stand still: a replica that never heard of the encoder cannot even name an entry."""
    known = new_photo()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(client.embed, [known] * 64))


def claim_of(client: Client, photo: bytes, known: bytes) -> str:
    return f"{CacheKey(DEFAULT_TENANT, client.embed(known).model_version, image_id(photo))}:claim"


def test_64_callers_over_two_replicas_are_one_encode(
    stack: Stack, encoded: Counted, new_photo: Photos
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
            calls = [pool.submit(embed, request, timeout=60) for _ in range(CALLERS)]
            time.sleep(2)  # all are there
        answers = [call.result() for call in calls]
    done = encoded() - before
    assert (done.images, done.runs) == (1, 1)
    names = Counter(types.CacheStatus.Name(a.cache) for a in answers)
    assert names["CACHE_STATUS_MISS"] == 1
    assert names["CACHE_STATUS_COALESCED"] + names["CACHE_STATUS_HIT"] == CALLERS - 1
    assert {a.image.SerializeToString() for a in answers} == {answers[0].image.SerializeToString()}
    assert {a.embedding.data for a in answers} == {answers[0].embedding.data}


def test_when_the_holder_is_killed_another_replica_takes_over_and_no_caller_loses(
    stack: Stack, client: Client, encoded: Counted, new_photo: Photos, redis: Redis
) -> None:
    photo, known = new_photo(), new_photo()
    claim, before = claim_of(client, photo, known), encoded()
    with ThreadPoolExecutor(CALLERS) as pool:
        with stopped(stack, "triton"):
            embeds = [pool.submit(client.embed, photo) for _ in range(CALLERS // 2)]
            clicks = [pool.submit(client.segment, photo, CLICK) for _ in range(CALLERS // 2)]
            time.sleep(2)  # all are there, and the holder's encode has been sent
            holder = redis.get(claim)
            assert isinstance(holder, bytes)
            os.kill(int(holder.split(b":")[1]), signal.SIGKILL)
            died = time.monotonic()
            while redis.get(claim) in (holder, None):
                assert time.monotonic() - died < EXPIRY + 2
                time.sleep(0.01)
        answers = [call.result() for call in (*embeds, *clicks)]
    # One encode was finished for somebody. The one that the killed replica had sent may or may not have been run.
    statuses = Counter(answer.cache for answer in answers)
    assert statuses["MISS"] == 1
    assert statuses["COALESCED"] + statuses["HIT"] == CALLERS - 1
    assert (encoded() - before).images in (1, 2)
    assert {(a.image_id, a.model_version, a.size) for a in answers} == {
        (image_id(photo), answers[0].model_version, answers[0].size)
    }
    masks = [call.result().masks[0].array() for call in clicks]
    assert all(np.array_equal(mask, masks[0]) for mask in masks)


def test_work_whose_callers_have_gone_is_not_begun(
    client: Client, stack: Stack, encoded: Counted, new_photo: Photos, redis: Redis
) -> None:
    photo, known = new_photo(), new_photo()
    claim = claim_of(client, photo, known)
    redis.set(claim, "another replica", px=4000)
    before = encoded()
    with (
        Client(stack.addresses.decoder, stack.addresses.embedding, timeout=0.7) as hasty,
        pytest.raises(DeadlinePassed),
    ):
        hasty.embed(photo)
    while redis.get(claim) == b"another replica":
        time.sleep(0.05)
    time.sleep(0.5)  # whoever still waited would have taken over
    assert redis.get(claim) is None
    assert (encoded() - before).images == 0
    assert client.embed(photo).cache == "MISS"


def test_while_redis_stands_still_answers_are_right_and_come_in_time(
    stack: Stack, client: Client, new_photo: Photos
) -> None:
    known, photos = new_photo(), [new_photo() for _ in range(4)]
    right = client.segment(known, CLICK).masks[0].array()
    with stopped(stack, "redis"), ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda photo: client.segment(photo, CLICK), photos * 2))
        assert np.array_equal(client.segment(known, CLICK).masks[0].array(), right)
        assert client.segment(photos[0], CLICK).cache == "HIT"  # the decoder kept it
    for answer, again in zip(answers[:4], answers[4:], strict=True):
        assert np.array_equal(answer.masks[0].array(), again.masks[0].array())
    for spent in (answer.timings_ms for answer in answers if answer.cache == "MISS"):
        waited = sum(spent[f"embedding.{stage}"] for stage in ("lookup", "turn", "store"))
        assert (
            waited < 3000
        )  # three operations, at most two timeouts of 300 ms each, and a busy machine
    give_up = time.monotonic() + 30
    while client.embed(photos[0]).cache != "HIT":
        assert time.monotonic() < give_up


def test_bytes_that_are_not_those_the_caller_hashed_are_refused_by_both_services(
    stack: Stack, encoded: Counted, new_photo: Photos
) -> None:
    photo, before = new_photo(), encoded()
    wrong = image_id(b"another photo")
    with (
        grpc.insecure_channel(stack.addresses.embedding) as embedding,
        grpc.insecure_channel(stack.addresses.decoder) as decoder,
    ):
        for call, request in (
            (rpc.EmbeddingServiceStub(embedding).Embed, pb.EmbedRequest),
            (
                segmentation_pb2_grpc.SegmentationServiceStub(decoder).Predict,
                segmentation_pb2.PredictRequest,
            ),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(request(data=photo, expected_image_id=wrong), timeout=30)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert wrong in str(caught.value.details())
    assert (encoded() - before).images == 0


def test_metrics_count_the_answers_of_all_replicas_on_one_port(
    stack: Stack, client: Client, new_photo: Photos
) -> None:
    def counted(cache: str) -> float:
        with urllib.request.urlopen(
            f"http://{stack.addresses.embedding_metrics}/metrics", timeout=5
        ) as page:
            text = page.read().decode()
        values = re.findall(
            rf'^samserve_embedded_total{{cache="{cache}",model="nano"}} (\S+)$', text, re.MULTILINE
        )
        assert re.search(r'^samserve_requests_total{code="OK",method="Embed"} ', text, re.MULTILINE)
        return float(values[0]) if values else 0.0

    photos = [new_photo() for _ in range(8)]
    client.embed(new_photo())
    before = counted("miss"), counted("hit")
    for photo in photos * 2:
        client.embed(photo)
    assert (counted("miss") - before[0], counted("hit") - before[1]) == (8, 8)
