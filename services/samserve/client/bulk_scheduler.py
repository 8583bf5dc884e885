"""Decides what a bulk run hashes, asks, reads, sends and retries next. No threads, clock or I/O."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count

from samserve.client.answer import BulkResult, EmbedAnswer
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
from samserve.client.image import ImageInput
from samserve.core.cache_status import CacheStatus
from samserve.core.errors import (
    DeadlinePassed,
    EmbeddingNotCached,
    InvalidInput,
    ModelNotFound,
    Overloaded,
    SamserveError,
    Unavailable,
)

SERVICE = "the embedding service"
AHEAD = 4  # images asked by hash for each image whose bytes may be in flight
MESSAGE_BYTES = 4 * 2**20  # of one message; a larger image is sent in a call of its own
LONGEST_WAIT = 30.0  # seconds between two attempts


@dataclass(frozen=True, slots=True)
class BulkOptions:
    """Limits of a bulk run.

    Attributes:
        model: the model to embed with; empty for the server's default.
        in_flight: images whose bytes may be in memory or in flight.
        retries: further attempts of one image, or of a stream that breaks without an answer.
        timeout: seconds without any answer after which a stream is closed.
    """

    model: str
    in_flight: int
    retries: int
    timeout: float


@dataclass(slots=True)
class _Task:
    """All images of the same bytes.

    Attributes:
        image_id: SHA-256 of the bytes.
        images: the images as they were given.
        failures: temporary failures so far.
        holds_bytes: whether the bytes are in memory or in flight.
    """

    image_id: str
    images: list[ImageInput]
    failures: int = 0
    holds_bytes: bool = False


@dataclass(order=True, slots=True)
class _Alarm:
    """Something to do at a time; `number` keeps the order of equal times."""

    time: float
    number: int
    action: Callable[[float], None] = field(compare=False)


class BulkScheduler:
    """The state of a bulk run.

    The caller reports events, with the time in seconds of a monotonic clock. After each event it
    performs the actions from `take_actions`, in order, and yields the results from `take_results`.
    Between events it waits until `next_alarm` at most, and then calls `wake`.
    """

    def __init__(self, options: BulkOptions) -> None:
        self._options = options
        self._numbers = count(1)
        self._actions: list[Action] = []
        self._results: list[BulkResult] = []
        self._open_images = 0  # taken, without a result

        self._tasks: dict[str, _Task] = {}  # by image id
        self._asked: dict[int, _Task] = {}  # by the number of the item that awaits an answer
        self._unsent: deque[_Task] = deque()  # their bytes must be sent
        self._holding_bytes = 0  # tasks
        self._alarms: list[_Alarm] = []

        self._stream: int | None = None  # the open stream's number
        self._breaks = 0  # streams that ended since the last answer
        self._heard = 0.0  # when the stream last answered, or was first asked

    @property
    def wants_image(self) -> bool:
        """Whether another image may be added."""
        return self._open_images < AHEAD * self._options.in_flight

    @property
    def unfinished(self) -> bool:
        """Whether an image still has no result."""
        return self._open_images > 0

    def take_actions(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions

    def take_results(self) -> list[BulkResult]:
        results, self._results = self._results, []
        return results

    def next_alarm(self) -> float | None:
        """When to call `wake`, unless an event comes first; None if only an event can help."""
        times = [alarm.time for alarm in self._alarms[:1]]
        if self._asked and self._stream is not None:
            times.append(self._heard + self._options.timeout)
        return min(times, default=None)

    def wake(self, now: float) -> None:
        """Do what the next alarm is for: a retry, or the timeout of a silent stream."""
        if self._alarms and self._alarms[0].time == self.next_alarm():
            heapq.heappop(self._alarms).action(now)
        elif self._stream is not None:
            self.stream_ended(self._stream, DeadlinePassed(SERVICE), temporary=True, now=now)

    def add(self, image: ImageInput) -> None:
        self._open_images += 1
        self._actions.append(HashImage(image))

    def hashed(self, image: ImageInput, image_id: str, now: float) -> None:
        if image_id in self._tasks:
            self._tasks[image_id].images.append(image)
            return
        task = _Task(image_id, [image])
        self._tasks[image_id] = task
        self._ask(task, now)

    def hashing_failed(self, image: ImageInput, error: OSError | InvalidInput) -> None:
        self._add_result(BulkResult(image, error=error))

    def loaded(self, image_id: str, data: bytes, now: float) -> None:
        task = self._tasks[image_id]
        if len(data) > MESSAGE_BYTES:  # if too large for the service, it would break the stream
            self._actions.append(EmbedAlone(image_id, data))
        else:
            self._send(task, partial(SendBytes, data=data), now)

    def loading_failed(self, image_id: str, error: OSError | InvalidInput) -> None:
        self._finish(self._tasks[image_id], error=error)

    def embedded(self, image_id: str, answer: EmbedAnswer) -> None:
        """An image sent in a call of its own is embedded."""
        self._finish(self._tasks[image_id], answer)

    def failed(self, image_id: str, error: SamserveError, now: float) -> None:
        """An image sent in a call of its own failed. Raises ModelNotFound."""
        self._fail(self._tasks[image_id], error, now)

    def answered(
        self, stream: int, answers: Iterable[tuple[int, EmbedAnswer | SamserveError]], now: float
    ) -> None:
        """The stream answered some items. Raises ModelNotFound, which ends the run."""
        if stream != self._stream:
            return  # a stream that was closed: its items are asked again

        self._heard = now
        self._breaks = 0

        for item, answer in answers:
            task = self._asked.pop(item)
            if isinstance(answer, SamserveError):
                self._fail(task, answer, now)
            else:
                self._finish(task, answer)

    def stream_ended(
        self, stream: int, error: SamserveError, *, temporary: bool, now: float
    ) -> None:
        """The stream ended: reopen it after a pause. Raises the error if a retry is useless."""
        if stream != self._stream:
            return
        self._actions.append(CloseStream())
        self._stream = None
        if not temporary or self._breaks >= self._options.retries:
            raise error
        self._set_alarm(now + _wait(error, self._breaks), self._reopen)
        self._breaks += 1

    def _ask(self, task: _Task, now: float) -> None:
        self._send(task, partial(SendHash, image_id=task.image_id), now)

    def _send(self, task: _Task, action: Callable[[int], SendHash | SendBytes], now: float) -> None:
        """Send an item. Without a stream it waits for the next one, and is then asked by hash."""
        item = next(self._numbers)
        if not self._asked:
            self._heard = now
        self._asked[item] = task
        if self._stream is None and self._breaks == 0:
            self._open(now)
        if self._stream is not None:
            self._actions.append(action(item))

    def _open(self, now: float) -> None:
        self._heard = now
        self._stream = next(self._numbers)
        self._actions.append(OpenStream(self._stream))

    def _reopen(self, now: float) -> None:
        """Open another stream, and ask again for all items without an answer."""
        self._open(now)
        waiting = list(self._asked.values())
        self._asked = {}
        for task in waiting:
            self._release_bytes(task)
            self._ask(task, now)

    def _read_more(self) -> None:
        """Read the next files, as many as may be in memory."""
        while self._unsent and self._holding_bytes < self._options.in_flight:
            task = self._unsent.popleft()
            task.holds_bytes = True
            self._holding_bytes += 1
            self._actions.append(ReadImage(task.image_id, task.images[0]))

    def _release_bytes(self, task: _Task) -> None:
        if task.holds_bytes:
            task.holds_bytes = False
            self._holding_bytes -= 1
            self._read_more()

    def _fail(self, task: _Task, error: SamserveError, now: float) -> None:
        temporary = isinstance(error, (Unavailable, Overloaded, DeadlinePassed))

        if isinstance(error, EmbeddingNotCached):
            self._unsent.append(task)
            self._read_more()
        elif isinstance(error, ModelNotFound):
            raise error  # every other image would fail too
        elif temporary and task.failures < self._options.retries:
            self._release_bytes(task)
            self._set_alarm(now + _wait(error, task.failures), partial(self._ask, task))
            task.failures += 1
        else:
            self._finish(task, error=error)

    def _finish(
        self,
        task: _Task,
        answer: EmbedAnswer | None = None,
        error: SamserveError | OSError | None = None,
    ) -> None:
        """Add a result for each image of the task: the first as answered, others as its copies."""
        del self._tasks[task.image_id]
        self._release_bytes(task)

        copy = answer
        if answer is not None and answer.cache is CacheStatus.MISS:
            copy = replace(answer, cache=CacheStatus.COALESCED)

        first, *others = task.images
        self._add_result(BulkResult(first, answer, error))
        for image in others:
            self._add_result(BulkResult(image, copy, error))

    def _add_result(self, result: BulkResult) -> None:
        self._open_images -= 1
        self._results.append(result)

    def _set_alarm(self, time: float, action: Callable[[float], None]) -> None:
        heapq.heappush(self._alarms, _Alarm(time, next(self._numbers), action))


def _wait(error: SamserveError, failures: int) -> float:
    """Seconds before the next attempt: the service's delay, doubled with each failure."""
    retry_after = error.retry_after if isinstance(error, (Unavailable, Overloaded)) else 1.0
    return float(min(retry_after * 2**failures, LONGEST_WAIT))
