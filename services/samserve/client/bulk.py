"""Embeds a data set through one stream: runs what the scheduler decides, in threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

from samserve.client.answer import BulkResult, EmbedAnswer, read_embed_answer
from samserve.client.bulk_actions import (
    Action,
    CloseStream,
    EmbedAlone,
    HashImage,
    OpenStream,
    ReadImage,
    SendBytes,
    SendHash,
)
from samserve.client.bulk_scheduler import SERVICE, BulkOptions, BulkScheduler
from samserve.client.bulk_stream import EmbedStream, StartCall
from samserve.client.image import ImageInput, read_bytes, read_id
from samserve.core.errors import InvalidInput, SamserveError
from samserve.v1 import embedding_pb2 as pb
from samserve.wire.status import error_in

HASHERS = 4  # threads beside those that may wait for a call

Event: TypeAlias = Callable[[float], None]  # takes the time
EmbedCall: TypeAlias = Callable[[bytes], EmbedAnswer]


class BulkEmbedding:
    """One run over a data set.

    All state belongs to the thread that iterates. Other threads only put events into a queue.
    """

    def __init__(
        self,
        images: Iterable[ImageInput],
        start: StartCall,
        embed_alone: EmbedCall,
        options: BulkOptions,
    ) -> None:
        """Prepare a run; iterating over `results` starts it.

        Args:
            images: as `read_bytes` takes them.
            start: the EmbedMany call.
            embed_alone: embeds the bytes of an image that is too large for the stream.
            options: limits of the run.
        """
        self._images = iter(images)
        self._start = start
        self._embed_alone = embed_alone
        self._model = options.model
        self._scheduler = BulkScheduler(options)
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._pool = ThreadPoolExecutor(options.in_flight + HASHERS, "samserve-bulk")
        self._stream: EmbedStream | None = None

    def results(self) -> Generator[BulkResult]:
        """Yield results in the order of their completion. Raises the stream's last error."""
        try:
            self._take_images()

            while self._scheduler.unfinished:
                self._handle_next_event()
                yield from self._scheduler.take_results()
                self._take_images()
        finally:
            self._close_stream()
            self._pool.shutdown(cancel_futures=True)

    def _take_images(self) -> None:
        """Take as many images as the scheduler wants."""
        while self._scheduler.wants_image:
            try:
                image = next(self._images)
            except StopIteration:
                break
            self._scheduler.add(image)
            self._perform_actions()

    def _handle_next_event(self) -> None:
        """Wait for an event or an alarm, and perform what follows from it."""
        alarm = self._scheduler.next_alarm()

        try:
            event = self._events.get(
                timeout=None if alarm is None else max(0.0, alarm - time.monotonic())
            )
        except Empty:
            event = self._scheduler.wake

        event(time.monotonic())
        self._perform_actions()

    def _perform_actions(self) -> None:
        for action in self._scheduler.take_actions():
            self._perform(action)

    def _perform(self, action: Action) -> None:
        match action:
            case HashImage(image):
                self._submit(partial(read_id, image), partial(self._hashed, image))
            case ReadImage(image_id, image):
                self._submit(partial(read_bytes, image), partial(self._loaded, image_id))
            case EmbedAlone(image_id, data):
                self._submit(partial(self._embed_alone, data), partial(self._embedded, image_id))
            case SendHash(item, image_id):
                self._send(pb.EmbedManyRequest.Item(id=item, image_id=image_id, model=self._model))
            case SendBytes(item, data):
                self._send(pb.EmbedManyRequest.Item(id=item, data=data, model=self._model))
            case OpenStream(number):
                self._open_stream(number)
            case CloseStream():
                self._close_stream()

    def _submit(self, work: Callable[[], Any], then: Callable[[Future[Any], float], None]) -> None:
        """Run `work` in the pool; `then` becomes an event."""
        self._pool.submit(work).add_done_callback(
            lambda future: self._events.put(partial(then, future))
        )

    def _hashed(self, image: ImageInput, future: Future[str], now: float) -> None:
        try:
            image_id = future.result()
        except (OSError, InvalidInput) as problem:
            self._scheduler.hashing_failed(image, problem)
        else:
            self._scheduler.hashed(image, image_id, now)

    def _loaded(self, image_id: str, future: Future[bytes], now: float) -> None:
        try:
            data = future.result()
        except (OSError, InvalidInput) as problem:
            self._scheduler.loading_failed(image_id, problem)
        else:
            self._scheduler.loaded(image_id, data, now)

    def _embedded(self, image_id: str, future: Future[EmbedAnswer], now: float) -> None:
        try:
            answer = future.result()
        except SamserveError as error:
            self._scheduler.failed(image_id, error, now)
        else:
            self._scheduler.embedded(image_id, answer)

    def _answered(self, stream: int, response: pb.EmbedManyResponse, now: float) -> None:
        answers = [(answer.id, _read_answer(answer)) for answer in response.answers]
        self._scheduler.answered(stream, answers, now)

    def _send(self, item: pb.EmbedManyRequest.Item) -> None:
        if self._stream is not None:
            self._stream.send(item)

    def _open_stream(self, number: int) -> None:
        def on_response(response: pb.EmbedManyResponse) -> None:
            self._events.put(partial(self._answered, number, response))

        def on_end(error: SamserveError, temporary: bool) -> None:
            self._events.put(
                lambda now: self._scheduler.stream_ended(
                    number, error, temporary=temporary, now=now
                )
            )

        self._stream = EmbedStream(self._start, on_response=on_response, on_end=on_end)

    def _close_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _read_answer(answer: pb.EmbedManyResponse.Answer) -> EmbedAnswer | SamserveError:
    if answer.HasField("error"):
        return error_in(answer.error, SERVICE)
    return read_embed_answer(answer.image)
