"""Embedding a data set with the client, over real gRPC, against a scripted service."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import grpc
import pytest
from samserve.client import BulkResult, CacheStatus, Client, bulk
from samserve.client.bulk_scheduler import MESSAGE_BYTES
from samserve.client.image import ImageInput
from samserve.core.errors import (
    EmbeddingNotCached,
    InvalidInput,
    ModelNotFound,
    PermissionDenied,
    SamserveError,
    Unavailable,
)
from samserve.core.image_id import image_id
from samserve.v1 import embedding_pb2 as pb
from samserve.v1 import embedding_pb2_grpc as rpc
from samserve.v1 import types_pb2 as types
from samserve.wire.channel import message_limits
from samserve.wire.status import status_of

BAD = b"bad"
CAP = 60.0  # seconds after which a wait is given up


class ScriptedService(rpc.EmbeddingServiceServicer):
    """Remembers what it is sent; fails, falls silent or breaks off when it is told to."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.sent: Counter[bytes] = Counter()
        self.asked, self.streams, self.most_bytes = 0, 0, 0
        self.failures: list[SamserveError] = []  # of the next images sent as bytes
        self.break_after: list[int] = []  # answers after which each next stream breaks off
        self.code = grpc.StatusCode.UNAVAILABLE  # with which it does
        self.silent = Event()  # the next stream is
        self.given_up = Event()  # the silent stream was
        self.go_on = Event()  # with images sent as bytes
        self.go_on.set()

    def EmbedMany(
        self, requests: Iterator[pb.EmbedManyRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.EmbedManyResponse]:
        self.streams += 1
        left = self.break_after.pop(0) if self.break_after else -1
        if self.silent.is_set():
            self.silent.clear()
            context.add_callback(self.given_up.set)
            self.given_up.wait(CAP)
        for request in requests:
            self.most_bytes = max(self.most_bytes, sum(len(item.data) for item in request.items))
            for item in reversed(request.items):
                if left == 0:
                    context.abort(self.code, "broken off")
                left -= 1
                yield pb.EmbedManyResponse(answers=[self._answer(item)])

    def Embed(self, request: pb.EmbedRequest, context: grpc.ServicerContext) -> pb.EmbedResponse:
        return self._embed(request)

    def _answer(self, item: pb.EmbedManyRequest.Item) -> pb.EmbedManyResponse.Answer:
        try:
            return pb.EmbedManyResponse.Answer(id=item.id, image=self._embed(item))
        except SamserveError as error:
            return pb.EmbedManyResponse.Answer(id=item.id, error=status_of(error))

    def _embed(self, request: pb.EmbedManyRequest.Item | pb.EmbedRequest) -> pb.EmbedResponse:
        if request.model == "sam9":
            raise ModelNotFound("sam9", ["nano"])
        name = request.image_id or image_id(request.data)
        hit = name in self.known
        if request.image_id:
            self.asked += 1
            if not hit:
                raise EmbeddingNotCached(name)
        else:
            self.sent[request.data] += 1
            assert self.go_on.wait(CAP)
            if self.failures:
                raise self.failures.pop(0)
            if request.data.startswith(BAD):
                raise InvalidInput("data", "not an image")
            self.known.add(name)
        status = types.CACHE_STATUS_HIT if hit else types.CACHE_STATUS_MISS
        return pb.EmbedResponse(
            image=types.ImageRef(image_id=name, width=3, height=2), cache=status
        )


@pytest.fixture
def service() -> ScriptedService:
    return ScriptedService()


@pytest.fixture
def address(service: ScriptedService) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4), options=message_limits(32 * 2**20))
    rpc.add_EmbeddingServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(embedding=address) as client:
        yield client


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samserve.client.bulk_scheduler.LONGEST_WAIT", 0.05)


def photos(count: int) -> list[bytes]:
    return [b"photo %d" % n for n in range(count)]


def caches(answers: Iterable[BulkResult]) -> dict[bytes, str]:
    return {
        a.image: a.answer.cache.name if a.answer else "FAILED"
        for a in answers
        if isinstance(a.image, bytes)
    }


def test_every_image_gets_one_answer_with_its_own_name(client: Client) -> None:
    answers = list(client.embed_many(photos(300)))
    assert sorted(a.image for a in answers) == sorted(photos(300))
    for done in answers:
        assert done.answer is not None
        assert isinstance(done.image, bytes)
        assert (done.answer.image_id, done.answer.cache) == (
            image_id(done.image),
            CacheStatus.MISS,
        )


def test_known_images_are_asked_for_by_hash_and_never_sent(
    client: Client, service: ScriptedService
) -> None:
    service.known = {image_id(photo) for photo in photos(50)}
    assert set(caches(client.embed_many(photos(50))).values()) == {"HIT"}
    assert (service.asked, service.sent) == (50, Counter())


def test_a_run_that_is_started_again_sends_only_what_was_not_done(
    client: Client, service: ScriptedService
) -> None:
    run = client.embed_many(photos(200), in_flight=2)
    first = [next(run) for _ in range(20)]
    run.close()
    assert len(first) == 20
    assert len(service.sent) < 200
    list(client.embed_many(photos(200)))
    assert len(service.known) == 200
    assert all(service.sent[photo] <= 2 for photo in photos(200))
    assert sum(service.sent.values()) < 220


def test_the_same_image_twice_is_sent_once(client: Client, service: ScriptedService) -> None:
    answers = list(client.embed_many([b"photo", b"photo", b"photo"]))
    assert len(answers) == 3
    assert service.sent == Counter({b"photo": 1})
    assert sorted(a.answer.cache.name for a in answers if a.answer)[-1] == "MISS"


def test_a_bad_image_fails_alone(client: Client) -> None:
    answers = caches(client.embed_many([*photos(5), BAD, *photos(10)[5:]]))
    assert answers == {**dict.fromkeys(photos(10), "MISS"), BAD: "FAILED"}


def test_a_file_that_is_gone_fails_alone(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"photo")
    answers = {a.image: a for a in client.embed_many([tmp_path / "a.png", tmp_path / "b.png"])}
    assert answers[tmp_path / "a.png"].answer is not None
    assert isinstance(answers[tmp_path / "b.png"].error, FileNotFoundError)


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN]
)
def test_a_stream_that_breaks_is_opened_anew_and_no_image_lost(
    client: Client, service: ScriptedService, code: grpc.StatusCode
) -> None:
    service.break_after, service.code = [3, 10, 1], code
    answers = list(client.embed_many(photos(60)))
    assert sorted(a.image for a in answers) == sorted(photos(60))
    assert all(a.answer for a in answers)
    assert service.streams >= 4


def test_a_stream_that_stays_broken_is_raised_after_some_tries(
    client: Client, service: ScriptedService
) -> None:
    service.break_after = [0] * 100
    with pytest.raises(Unavailable, match="broken off"):
        list(client.embed_many(photos(5), retries=2))


def test_a_refused_stream_is_not_tried_again(client: Client, service: ScriptedService) -> None:
    service.break_after, service.code = [0] * 100, grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(PermissionDenied):
        list(client.embed_many(photos(5)))
    assert service.streams == 1


def test_a_silent_stream_is_given_up_and_reopened(address: str, service: ScriptedService) -> None:
    service.silent.set()
    with Client(embedding=address, timeout=0.5) as client:
        # A busy machine may seem silent too: as many retries as it needs.
        assert len(caches(client.embed_many(photos(5), retries=1000))) == 5
    assert service.given_up.is_set()
    assert service.streams >= 2
    assert service.known == {image_id(photo) for photo in photos(5)}


def test_what_fails_in_passing_is_tried_again(client: Client, service: ScriptedService) -> None:
    service.failures = [Unavailable("Triton is away") for _ in range(4)]
    assert set(caches(client.embed_many(photos(6))).values()) == {"MISS"}
    assert sum(service.sent.values()) == 10


def test_what_keeps_failing_is_answered_with_its_error(
    client: Client, service: ScriptedService
) -> None:
    service.failures = [Unavailable("Triton is away") for _ in range(100)]
    (answer,) = client.embed_many([b"photo"], retries=3)
    assert isinstance(answer.error, Unavailable)
    assert service.sent[b"photo"] == 4


def test_an_unknown_model_ends_the_run(address: str) -> None:
    with (
        Client(embedding=address, model="sam9") as client,
        pytest.raises(ModelNotFound, match="nano"),
    ):
        list(client.embed_many(photos(5)))


def test_messages_stay_small_and_a_large_image_goes_alone(
    client: Client, service: ScriptedService
) -> None:
    large = [bytes([n]) * (MESSAGE_BYTES + 1) for n in range(2)]
    middle = [bytes([n]) * (MESSAGE_BYTES // 3) for n in range(10, 20)]
    answers = list(client.embed_many([*large, *middle]))
    assert all(a.answer for a in answers)
    assert len(answers) == 12
    assert 0 < service.most_bytes <= MESSAGE_BYTES


def test_an_image_too_large_for_the_service_fails_alone(client: Client) -> None:
    answers = caches(client.embed_many([bytes(34 * 2**20), *photos(5)]))
    assert sorted(answers.values()) == ["FAILED", *["MISS"] * 5]


def test_no_more_images_are_taken_than_may_be_ahead(client: Client) -> None:
    taken = 0

    def images() -> Iterator[bytes]:
        nonlocal taken
        for photo in photos(1000):
            taken += 1
            yield photo

    run = client.embed_many(images(), in_flight=2)
    next(run)
    time.sleep(0.2)  # no more are taken
    assert taken <= 9
    run.close()


def test_no_more_files_are_read_than_may_be_in_flight(
    client: Client, service: ScriptedService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[ImageInput] = []
    monkeypatch.setattr(bulk, "read_bytes", lambda image: read.append(image) or image.read_bytes())
    for number, photo in enumerate(photos(20)):
        (tmp_path / f"{number}.png").write_bytes(photo)
    service.go_on.clear()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(lambda: list(client.embed_many(tmp_path.iterdir(), in_flight=3)))
        end = time.monotonic() + CAP
        while service.asked < 12 or len(read) < 3:
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(0.1)  # no more are read
        assert len(read) == 3
        service.go_on.set()
        assert len(run.result()) == len(read) == 20


def test_what_the_callers_iterable_raises_is_raised(client: Client) -> None:
    def images() -> Iterator[bytes]:
        yield b"photo"
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(client.embed_many(images()))


def test_no_images_are_no_call(client: Client, service: ScriptedService) -> None:
    assert list(client.embed_many([])) == []
    assert service.streams == 0
