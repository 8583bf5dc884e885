"""The scheduler of a bulk run, without threads: events and times in, actions and results out."""

from dataclasses import replace

import pytest
from samserve.client import BulkResult, CacheStatus, EmbedAnswer
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
from samserve.client.bulk_scheduler import AHEAD, MESSAGE_BYTES, BulkOptions, BulkScheduler
from samserve.core.errors import (
    DeadlinePassed,
    EmbeddingNotCached,
    InvalidInput,
    ModelNotFound,
    Overloaded,
    SamserveError,
    Unavailable,
)
from samserve.core.geometry import Size

OPTIONS = BulkOptions(model="nano", in_flight=2, retries=2, timeout=60)
ANSWER = EmbedAnswer("a", "v1", Size(3, 2), CacheStatus.MISS, {})


@pytest.fixture
def scheduler() -> BulkScheduler:
    return BulkScheduler(OPTIONS)


def stream_of(actions: list[Action]) -> int:
    (stream,) = [action.stream for action in actions if isinstance(action, OpenStream)]
    return stream


def item_of(actions: list[Action]) -> int:
    (item,) = [action.item for action in actions if isinstance(action, (SendHash, SendBytes))]
    return item


def ask(scheduler: BulkScheduler, image_id: str = "a", now: float = 0) -> list[Action]:
    """Add one image and report its hash."""
    image = image_id.encode()
    scheduler.add(image)
    assert scheduler.take_actions() == [HashImage(image)]
    scheduler.hashed(image, image_id, now)
    return scheduler.take_actions()


def answer(
    scheduler: BulkScheduler,
    stream: int,
    item: int,
    result: EmbedAnswer | SamserveError,
    now: float = 0,
) -> list[Action]:
    scheduler.answered(stream, [(item, result)], now)
    return scheduler.take_actions()


def send(scheduler: BulkScheduler, image_id: str = "a") -> tuple[int, int]:
    """Bring one image as far as its bytes are sent; the stream's and the item's numbers."""
    actions = ask(scheduler, image_id)
    stream = stream_of(actions)
    read = answer(scheduler, stream, item_of(actions), EmbeddingNotCached(image_id))
    assert read == [ReadImage(image_id, image_id.encode())]
    scheduler.loaded(image_id, b"bytes", 0)
    return stream, item_of(scheduler.take_actions())


def test_an_image_is_asked_by_hash_on_a_stream_that_opens_first(scheduler: BulkScheduler) -> None:
    opened, asked = ask(scheduler)
    assert isinstance(opened, OpenStream)
    assert isinstance(asked, SendHash)
    assert asked.image_id == "a"
    assert not any(isinstance(action, OpenStream) for action in ask(scheduler, "b"))


def test_a_known_image_is_a_result_and_nothing_is_read(scheduler: BulkScheduler) -> None:
    actions = ask(scheduler)
    hit = replace(ANSWER, cache=CacheStatus.HIT)
    assert answer(scheduler, stream_of(actions), item_of(actions), hit) == []
    assert scheduler.take_results() == [BulkResult(b"a", hit)]
    assert not scheduler.unfinished


def test_an_unknown_image_is_read_and_its_bytes_are_sent(scheduler: BulkScheduler) -> None:
    stream, item = send(scheduler)
    answer(scheduler, stream, item, ANSWER)
    assert scheduler.take_results() == [BulkResult(b"a", ANSWER)]


def test_images_are_taken_ahead_up_to_a_limit(scheduler: BulkScheduler) -> None:
    for number in range(AHEAD * OPTIONS.in_flight):
        assert scheduler.wants_image
        scheduler.add(bytes([number]))
    assert not scheduler.wants_image


def test_no_more_files_are_read_than_may_be_in_flight(scheduler: BulkScheduler) -> None:
    asked = [ask(scheduler, name) for name in "abc"]
    stream = stream_of(asked[0])
    items = [item_of(actions) for actions in asked]
    scheduler.answered(stream, [(item, EmbeddingNotCached("x")) for item in items], 0)
    assert scheduler.take_actions() == [ReadImage("a", b"a"), ReadImage("b", b"b")]

    scheduler.loading_failed("a", FileNotFoundError("gone"))
    assert scheduler.take_actions() == [ReadImage("c", b"c")]
    assert isinstance(scheduler.take_results()[0].error, FileNotFoundError)


def test_a_large_image_is_sent_in_a_call_of_its_own(scheduler: BulkScheduler) -> None:
    actions = ask(scheduler)
    answer(scheduler, stream_of(actions), item_of(actions), EmbeddingNotCached("a"))
    large = bytes(MESSAGE_BYTES + 1)
    scheduler.loaded("a", large, 0)
    assert scheduler.take_actions() == [EmbedAlone("a", large)]
    scheduler.embedded("a", ANSWER)
    assert scheduler.take_results() == [BulkResult(b"a", ANSWER)]


def test_equal_images_are_sent_once_and_all_get_a_result(scheduler: BulkScheduler) -> None:
    actions = ask(scheduler)
    scheduler.add("copy.png")
    scheduler.take_actions()
    scheduler.hashed("copy.png", "a", 0)
    assert scheduler.take_actions() == []

    answer(scheduler, stream_of(actions), item_of(actions), ANSWER)
    coalesced = replace(ANSWER, cache=CacheStatus.COALESCED)
    assert scheduler.take_results() == [
        BulkResult(b"a", ANSWER),
        BulkResult("copy.png", coalesced),
    ]


@pytest.mark.parametrize("error", [InvalidInput("data", "damaged"), SamserveError("a bug")])
def test_an_image_that_cannot_be_embedded_fails_alone(
    scheduler: BulkScheduler, error: SamserveError
) -> None:
    stream, item = send(scheduler)
    answer(scheduler, stream, item, error)
    assert scheduler.take_results() == [BulkResult(b"a", error=error)]
    assert scheduler.next_alarm() is None


def test_an_unknown_model_ends_the_run(scheduler: BulkScheduler) -> None:
    actions = ask(scheduler)
    with pytest.raises(ModelNotFound):
        answer(scheduler, stream_of(actions), item_of(actions), ModelNotFound("sam9", ["nano"]))


def test_a_temporary_failure_is_retried_after_twice_the_delay_each_time(
    scheduler: BulkScheduler,
) -> None:
    stream, item = send(scheduler)
    now = 100.0

    for delay in (3, 6):
        error = Overloaded("the queue", retry_after=3)
        assert answer(scheduler, stream, item, error, now) == []
        assert scheduler.next_alarm() == now + delay
        now += delay
        scheduler.wake(now)
        item = item_of(scheduler.take_actions())

    last = Unavailable("still away")
    answer(scheduler, stream, item, last, now)
    assert scheduler.take_results() == [BulkResult(b"a", error=last)]


def test_a_retry_asks_by_hash_and_frees_the_bytes_meanwhile(scheduler: BulkScheduler) -> None:
    stream, item = send(scheduler)
    for name in "bc":
        asked = item_of(ask(scheduler, name))
        actions = answer(scheduler, stream, asked, EmbeddingNotCached(name))
    assert actions == []  # two images hold their bytes
    assert answer(scheduler, stream, item, Unavailable("away")) == [ReadImage("c", b"c")]
    scheduler.wake(1)
    (retry,) = scheduler.take_actions()
    assert isinstance(retry, SendHash)


def test_a_broken_stream_is_reopened_after_a_pause_and_its_items_asked_again(
    scheduler: BulkScheduler,
) -> None:
    stream, _ = send(scheduler)
    asked = ask(scheduler, "b")
    scheduler.stream_ended(stream, Unavailable("broken off", 2), temporary=True, now=10)
    assert scheduler.take_actions() == [CloseStream()]
    assert scheduler.next_alarm() == 12
    assert ask(scheduler, "c") == []  # it waits for the next stream

    scheduler.wake(12)
    opened, *sent = scheduler.take_actions()
    assert isinstance(opened, OpenStream)
    assert opened.stream != stream
    assert [action.image_id for action in sent if isinstance(action, SendHash)] == ["a", "b", "c"]
    assert item_of(asked) not in [action.item for action in sent if isinstance(action, SendHash)]


def test_events_of_a_closed_stream_are_ignored(scheduler: BulkScheduler) -> None:
    actions = ask(scheduler)
    stream, item = stream_of(actions), item_of(actions)
    scheduler.stream_ended(stream, Unavailable("broken off"), temporary=True, now=0)
    scheduler.take_actions()
    assert answer(scheduler, stream, item, ANSWER) == []
    scheduler.stream_ended(stream, Unavailable("again"), temporary=False, now=0)
    assert scheduler.take_results() == scheduler.take_actions() == []


def test_a_stream_that_keeps_breaking_raises_its_error(scheduler: BulkScheduler) -> None:
    stream = stream_of(ask(scheduler))
    now = 0.0
    for _ in range(OPTIONS.retries):
        scheduler.stream_ended(stream, Unavailable("broken off"), temporary=True, now=now)
        scheduler.take_actions()
        now = scheduler.next_alarm() or 0
        scheduler.wake(now)
        stream = stream_of(scheduler.take_actions())
    with pytest.raises(Unavailable, match="broken off"):
        scheduler.stream_ended(stream, Unavailable("broken off"), temporary=True, now=now)


def test_an_answer_resets_the_count_of_breaks(scheduler: BulkScheduler) -> None:
    for name in "abcd":
        actions = ask(scheduler, name)
        if (alarm := scheduler.next_alarm()) is not None and not actions:
            scheduler.wake(alarm)
            actions = scheduler.take_actions()
        stream = stream_of(actions)
        answer(scheduler, stream, item_of(actions), ANSWER)
        scheduler.stream_ended(stream, Unavailable("broken off"), temporary=True, now=0)
        scheduler.take_actions()
    assert len(scheduler.take_results()) == 4


def test_a_permanent_error_of_the_stream_is_raised_at_once(scheduler: BulkScheduler) -> None:
    stream = stream_of(ask(scheduler))
    with pytest.raises(SamserveError, match="refused"):
        scheduler.stream_ended(stream, SamserveError("refused"), temporary=False, now=0)


def test_a_silent_stream_is_closed_at_its_timeout(scheduler: BulkScheduler) -> None:
    actions = ask(scheduler, now=5)
    assert scheduler.next_alarm() == 5 + OPTIONS.timeout
    answer(scheduler, stream_of(actions), item_of(actions), ANSWER, now=7)
    assert scheduler.next_alarm() is None  # nothing awaits an answer

    ask(scheduler, "b", now=20)
    assert scheduler.next_alarm() == 20 + OPTIONS.timeout
    scheduler.wake(80)
    assert scheduler.take_actions() == [CloseStream()]
    scheduler.wake(scheduler.next_alarm() or 0)
    assert isinstance(scheduler.take_actions()[0], OpenStream)


def test_a_stream_that_stays_silent_raises_deadline_passed() -> None:
    scheduler = BulkScheduler(replace(OPTIONS, retries=0))
    ask(scheduler)
    with pytest.raises(DeadlinePassed):
        scheduler.wake(60)
