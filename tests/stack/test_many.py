"""Data sets and plain tensors through the real Ray Serve."""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2
from samserve.client import CachedImage, Client
from samserve.codec.packed import unpack
from samserve.core.errors import EmbeddingNotCached, InvalidInput, ModelNotFound
from samserve.core.image_id import image_id
from samserve.local.stack import Stack
from samserve.v1 import embedding_pb2 as pb
from samserve.v1 import embedding_pb2_grpc as rpc
from samserve.v1 import types_pb2 as types
from samserve.wire.channel import message_limits
from samserve.wire.status import DETAILS_KEY, error_in, error_of
from stacks import CAP, Encodes, Photos, replicas

Item = pb.EmbedManyRequest.Item


@pytest.fixture
def stub(stack: Stack) -> Iterator[rpc.EmbeddingServiceStub]:
    with grpc.insecure_channel(stack.addresses.embedding, message_limits(64 * 2**20)) as channel:
        yield rpc.EmbeddingServiceStub(channel)


def test_good_bad_and_known_images_are_answered_each_on_its_own(
    client: Client, encoded: Encodes, new_photo: Photos, tmp_path: Path
) -> None:
    known, new = [new_photo() for _ in range(3)], [new_photo() for _ in range(8)]
    for photo in known:
        client.embed(photo)
    before = encoded()
    (tmp_path / "photo.png").write_bytes(new[0])
    images = [
        *known,
        tmp_path / "photo.png",
        tmp_path / "gone.png",
        *new[1:],
        new[1],
        b"no image",
        bytes(33 * 2**20),
    ]
    answers = list(client.embed_many(images))
    assert len(answers) == len(images)
    assert {a.image for a in answers} == set(images)
    by_image = {a.image: a for a in answers}
    assert {done.answer.cache.name for photo in known if (done := by_image[photo]).answer} == {
        "HIT"
    }
    assert sum(a.answer is not None and a.answer.cache.name == "MISS" for a in answers) == 8
    assert {type(a.error) for a in answers if a.error} == {FileNotFoundError, InvalidInput}
    assert sum(a.error is not None for a in answers) == 3
    done = encoded() - before
    assert done.images == 8
    assert done.runs < 8


def test_answers_bear_their_items_ids_in_any_order(
    stub: rpc.EmbeddingServiceStub, new_photo: Photos
) -> None:
    known, new = new_photo(), new_photo()
    stub.Embed(pb.EmbedRequest(data=known))
    requests = [
        pb.EmbedManyRequest(items=[Item(id=7, data=new), Item(id=3, image_id=image_id(known))]),
        pb.EmbedManyRequest(),
        pb.EmbedManyRequest(
            items=[Item(id=2**60, data=b"no image"), Item(id=4), Item(id=5, data=new, model="sam9")]
        ),
    ]
    answers = {
        answer.id: answer
        for response in stub.EmbedMany(iter(requests))
        for answer in response.answers
    }
    assert answers.keys() == {7, 3, 2**60, 4, 5}
    assert answers[7].image.image.image_id == image_id(new)
    assert (answers[7].image.cache, answers[3].image.cache) == (
        types.CACHE_STATUS_MISS,
        types.CACHE_STATUS_HIT,
    )
    assert isinstance(error_in(answers[2**60].error, "it"), InvalidInput)
    assert isinstance(error_in(answers[4].error, "it"), InvalidInput)
    assert isinstance(error_in(answers[5].error, "it"), ModelNotFound)


def test_an_answer_does_not_wait_for_the_next_request(
    stub: rpc.EmbeddingServiceStub, new_photo: Photos
) -> None:
    requests: queue.SimpleQueue[pb.EmbedManyRequest | None] = queue.SimpleQueue()
    answers = stub.EmbedMany(iter(requests.get, None))
    for number in range(3):
        requests.put(pb.EmbedManyRequest(items=[Item(id=number, data=new_photo())]))
        assert [answer.id for answer in next(answers).answers] == [number]
    requests.put(None)
    assert list(answers) == []


def test_streams_cancelled_in_the_middle_leave_the_service_fine(
    stub: rpc.EmbeddingServiceStub, client: Client, new_photo: Photos
) -> None:
    for _ in range(70):  # more than the streams and calls a replica takes at once
        requests: queue.SimpleQueue[pb.EmbedManyRequest | None] = queue.SimpleQueue()
        stream = stub.EmbedMany(iter(requests.get, None))
        requests.put(
            pb.EmbedManyRequest(
                items=[Item(id=1, image_id="00" * 32), Item(id=2, image_id="11" * 32)]
            )
        )
        next(stream)
        requests.put(pb.EmbedManyRequest(items=[Item(id=3, image_id="22" * 32)]))
        stream.cancel()
        requests.put(None)
    photo = new_photo()
    assert client.embed(photo).cache.name == "MISS"
    assert [a.answer.cache.name for a in client.embed_many([photo, photo]) if a.answer] == [
        "HIT",
        "HIT",
    ]


def test_several_data_sets_at_once_do_not_mix(client: Client, new_photo: Photos) -> None:
    sets = [[new_photo() for _ in range(6)] for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda photos: list(client.embed_many(photos)), sets))
    for photos, answers in zip(sets, runs, strict=True):
        assert sorted(a.answer.image_id for a in answers if a.answer) == sorted(
            map(image_id, photos)
        )


def test_the_tensors_are_those_that_embed_sends(
    stub: rpc.EmbeddingServiceStub, client: Client, new_photo: Photos
) -> None:
    photo = new_photo()
    got = client.embedding(photo)
    packed = stub.Embed(
        pb.EmbedRequest(image_id=image_id(photo), include_embedding=True)
    ).embedding.data
    wanted = unpack(packed)
    assert (got.model_version, got.size) == (wanted.model_version, wanted.size)
    assert got.tensors.keys() == wanted.tensors.keys()
    for name, tensor in wanted.tensors.items():
        assert np.array_equal(got.tensors[name], tensor)


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        (
            {"image": types.ImageRef(image_id="00" * 32)},
            grpc.StatusCode.NOT_FOUND,
            "EMBEDDING_NOT_CACHED",
        ),
        (
            {"image": types.ImageRef(image_id="00" * 32), "model": "sam9"},
            grpc.StatusCode.NOT_FOUND,
            "MODEL_NOT_FOUND",
        ),
        (
            {"image": types.ImageRef(image_id="00" * 32, model_version="old")},
            grpc.StatusCode.FAILED_PRECONDITION,
            "MODEL_VERSION_MISMATCH",
        ),
    ],
)
def test_tensors_that_are_not_there_are_refused_with_details(
    stub: rpc.EmbeddingServiceStub, request_: dict[str, object], code: grpc.StatusCode, reason: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.GetEmbedding(pb.GetEmbeddingRequest(**request_), timeout=CAP))
    assert caught.value.code() is code
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())[DETAILS_KEY])
    info = details.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.reason == reason


def test_an_image_that_is_not_there_is_the_clients_own_error(
    client: Client, new_photo: Photos
) -> None:
    with pytest.raises(EmbeddingNotCached):
        client.embedding(CachedImage(image_id(new_photo())))


def test_a_data_set_outlives_the_replica_that_embeds_it(
    stack: Stack, client: Client, new_photo: Photos
) -> None:
    images = [new_photo() for _ in range(24)]
    run = client.embed_many(images)
    answers = [next(run)]
    for process in replicas(stack):
        os.kill(process, signal.SIGKILL)
    answers += run
    assert sorted(a.answer.image_id for a in answers if a.answer) == sorted(map(image_id, images))


def test_a_request_of_too_many_items_ends_its_stream_and_names_the_limit(
    stub: rpc.EmbeddingServiceStub, new_photo: Photos
) -> None:
    known = new_photo()
    stub.Embed(pb.EmbedRequest(data=known))
    item = Item(id=1, image_id=image_id(known))

    requests: queue.SimpleQueue[pb.EmbedManyRequest | None] = queue.SimpleQueue()
    call = stub.EmbedMany(iter(requests.get, None), timeout=CAP)
    requests.put(pb.EmbedManyRequest(items=[item] * 1_000))
    answered = 0
    while answered < 1_000:
        answered += len(next(call).answers)

    requests.put(pb.EmbedManyRequest(items=[item] * 1_001))
    with pytest.raises(grpc.RpcError) as caught:
        for _ in call:
            pass
    requests.put(None)
    error = error_of(caught.value, "the embedding service")
    assert isinstance(error, InvalidInput)
    assert error.field == "items"
    assert "1,001 items in one request; the limit is 1,000" in str(error)
