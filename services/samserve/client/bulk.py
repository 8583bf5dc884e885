"""A data set embedded through one stream: asked by hash, sent only if it must be, resumed when the stream breaks."""

from __future__ import annotations

import hashlib
import heapq
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

from samserve.client.answer import EmbedAnswer, read_embed_answer
from samserve.client.bulk_stream import MESSAGE_BYTES, SERVICE, EmbedStream, Start
from samserve.core.errors import (
    DeadlinePassed,
    EmbeddingNotCached,
    ModelNotFound,
    Overloaded,
    SamserveError,
    Unavailable,
)
from samserve.core.image_id import image_id
from samserve.v1 import embedding_pb2 as pb
from samserve.wire.status import error_in

Image: TypeAlias = str | Path | bytes
AHEAD = 4  # images asked for by hash, for each that may be on its way as bytes
PIECE = 2**20
LONGEST_WAIT = 30.0  # seconds between two tries
HASHERS = 4  # threads beside those that may wait for a call


@dataclass(frozen=True, slots=True)
class BulkOptions:
    """in_flight: images whose bytes are in memory or on the way; retries: of one image, or of a stream that breaks
    without an answer; timeout: seconds without any answer after which a stream is given up."""

    model: str
    in_flight: int
    retries: int
    timeout: float


@dataclass(frozen=True, slots=True)
class BulkResult:
    """What became of one image, as it was given: an answer, or the error that it alone failed with."""

    image: Image
    answer: EmbedAnswer | None = None
    error: SamserveError | OSError | None = None


@dataclass(slots=True)
class _Task:
    """Images of the same bytes that are being embedded; sending: the bytes are in memory."""

    image_id: str
    images: list[Image]
    failures: int = 0
    sending: bool = False


Event: TypeAlias = Callable[[], list[BulkResult]]
EmbedAlone: TypeAlias = Callable[[bytes], EmbedAnswer]


class BulkEmbedding:
    """One run over a data set. All its state belongs to the thread that iterates; others only put events in a queue."""

    def __init__(
        self, images: Iterable[Image], start: Start, embed_alone: EmbedAlone, options: BulkOptions
    ) -> None:
        self._images, self._start, self._embed_alone, self._options = (
            iter(images),
            start,
            embed_alone,
            options,
        )
        self._pool = ThreadPoolExecutor(options.in_flight + HASHERS, "samserve-many")
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._due: list[tuple[float, int, Event]] = []
        self._numbers = count(1)
        self._tasks: dict[str, _Task] = {}
        self._asked: dict[int, _Task] = {}
        self._unsent: deque[_Task] = deque()
        self._open_images, self._sending, self._breaks = 0, 0, 0
        self._stream: EmbedStream | None = None
        self._heard = 0.0

    def answers(self) -> Generator[BulkResult]:
        """Answers as they come. Raises what the stream ends with, once that is no longer worth a retry."""
        try:
            while self._take():
                for answer in self._next_event()():
                    self._open_images -= 1
                    yield answer
        finally:
            if self._stream is not None:
                self._stream.close()
            self._pool.shutdown(cancel_futures=True)

    def _take(self) -> bool:
        """Begin with as many images as may be begun; whether there is anything to wait for."""
        while self._open_images < AHEAD * self._options.in_flight:
            try:
                image = next(self._images)
            except StopIteration:
                break
            self._open_images += 1
            self._begin(partial(_identify, image), partial(self._identified, image))
        return self._open_images > 0

    def _begin(
        self, work: Callable[[], Any], then: Callable[[Future[Any]], list[BulkResult]]
    ) -> None:
        self._pool.submit(work).add_done_callback(
            lambda done: self._events.put(partial(then, done))
        )

    def _next_event(self) -> Event:
        """Wait for an event, for a retry that is due, or for too long."""
        alarms = [self._due[0][0]] if self._due else []
        if self._asked and self._stream is not None:
            alarms.append(self._heard + self._options.timeout)
        try:
            return self._events.get(
                timeout=max(0.0, min(alarms) - time.monotonic()) if alarms else None
            )
        except Empty:
            if self._due and self._due[0][0] == min(alarms):
                return heapq.heappop(self._due)[2]
            return partial(self._broken, self._stream, DeadlinePassed(SERVICE), True)

    def _identified(self, image: Image, done: Future[str]) -> list[BulkResult]:
        try:
            name = done.result()
        except OSError as problem:
            return [BulkResult(image, error=problem)]
        if name in self._tasks:
            self._tasks[name].images.append(image)
        else:
            self._tasks[name] = _Task(name, [image])
            self._ask(self._tasks[name])
        return []

    def _ask(self, task: _Task) -> list[BulkResult]:
        self._send(task, pb.EmbedManyRequest.Item(image_id=task.image_id))
        return []

    def _send(self, task: _Task, item: pb.EmbedManyRequest.Item) -> None:
        """Without a stream the task waits, without its bytes, until there is one again."""
        item.id, item.model = next(self._numbers), self._options.model
        if not self._asked:
            self._heard = time.monotonic()
        self._asked[item.id] = task
        if self._stream is None and self._breaks == 0:
            self._open()
        if self._stream is not None:
            self._stream.send(item)

    def _send_bytes(self) -> None:
        """Read more files, as many as may be in memory."""
        while self._unsent and self._sending < self._options.in_flight:
            task = self._unsent.popleft()
            task.sending = True
            self._sending += 1
            self._begin(partial(_bytes, task.images[0]), partial(self._read, task))

    def _read(self, task: _Task, done: Future[bytes]) -> list[BulkResult]:
        try:
            data = done.result()
        except OSError as problem:
            return self._finish(task, error=problem)
        if (
            len(data) > MESSAGE_BYTES
        ):  # in a call of its own: one that is too large would break the stream
            self._begin(partial(self._embed_alone, data), partial(self._embedded_alone, task))
        else:
            self._send(task, pb.EmbedManyRequest.Item(data=data))
        return []

    def _embedded_alone(self, task: _Task, done: Future[EmbedAnswer]) -> list[BulkResult]:
        try:
            return self._finish(task, done.result())
        except SamserveError as error:
            return self._failed(task, error)

    def _answered(self, stream: EmbedStream, response: pb.EmbedManyResponse) -> list[BulkResult]:
        if stream is not self._stream:
            return []  # of a stream that was given up: its images are asked for again
        self._heard, self._breaks = time.monotonic(), 0
        results: list[BulkResult] = []
        for answer in response.answers:
            task = self._asked.pop(answer.id)
            if answer.HasField("error"):
                results += self._failed(task, error_in(answer.error, SERVICE))
            else:
                results += self._finish(task, read_embed_answer(answer.image))
        return results

    def _failed(self, task: _Task, error: SamserveError) -> list[BulkResult]:
        if isinstance(error, EmbeddingNotCached):
            self._unsent.append(task)
            self._send_bytes()
        elif isinstance(error, ModelNotFound):
            raise error  # no image will fare better
        elif (
            isinstance(error, (Unavailable, Overloaded, DeadlinePassed))
            and task.failures < self._options.retries
        ):
            self._forget_bytes(task)
            self._later(_wait(error, task.failures), partial(self._ask, task))
            task.failures += 1
        else:
            return self._finish(task, error=error)
        return []

    def _finish(
        self,
        task: _Task,
        answer: EmbedAnswer | None = None,
        error: SamserveError | OSError | None = None,
    ) -> list[BulkResult]:
        del self._tasks[task.image_id]
        self._forget_bytes(task)
        first, *others = task.images
        twin = (
            replace(answer, cache="COALESCED")
            if answer is not None and answer.cache == "MISS"
            else answer
        )
        return [
            BulkResult(first, answer, error),
            *(BulkResult(image, twin, error) for image in others),
        ]

    def _forget_bytes(self, task: _Task) -> None:
        if task.sending:
            task.sending = False
            self._sending -= 1
            self._send_bytes()

    def _later(self, seconds: float, event: Event) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), event))

    def _open(self) -> None:
        self._heard = time.monotonic()
        self._stream = EmbedStream(
            self._start,
            lambda *told: self._events.put(partial(self._answered, *told)),
            lambda *told: self._events.put(partial(self._broken, *told)),
        )

    def _broken(
        self, stream: EmbedStream | None, error: SamserveError, passing: bool
    ) -> list[BulkResult]:
        """The stream has ended: open another, after a while, and ask again for what has no answer yet."""
        if stream is None or stream is not self._stream:
            return []
        stream.close()
        self._stream = None
        if not passing or self._breaks >= self._options.retries:
            raise error
        self._later(_wait(error, self._breaks), self._open_again)
        self._breaks += 1
        return []

    def _open_again(self) -> list[BulkResult]:
        self._open()
        waiting, self._asked = list(self._asked.values()), {}
        for task in waiting:
            self._forget_bytes(task)
            self._ask(task)
        return []


def _wait(error: SamserveError, failures: int) -> float:
    """Seconds before another try: what the service asks for, doubled with each failure."""
    asked = error.retry_after if isinstance(error, (Unavailable, Overloaded)) else 1.0
    return float(min(asked * 2**failures, LONGEST_WAIT))


def _identify(image: Image) -> str:
    """The image's id; a file is hashed piece by piece."""
    if isinstance(image, bytes):
        return image_id(image)
    digest = hashlib.sha256()
    with Path(image).open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _bytes(image: Image) -> bytes:
    return image if isinstance(image, bytes) else Path(image).read_bytes()
