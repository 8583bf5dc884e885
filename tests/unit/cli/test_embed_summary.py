from pathlib import Path

import pytest
from samserve.cli.embed_summary import SHOWN, EmbedSummary, result_as_json
from samserve.client import BulkResult, CacheStatus, EmbedAnswer
from samserve.core.errors import InvalidInput, SamserveError, Unavailable
from samserve.core.geometry import Size


def embedded(cache: str) -> BulkResult:
    return BulkResult(Path("a.png"), EmbedAnswer("ab", "v1", Size(3, 2), CacheStatus[cache], {}))


def failed(error: SamserveError | OSError) -> BulkResult:
    return BulkResult(Path("b.png"), error=error)


DAMAGED = InvalidInput("data", "damaged")
AWAY = Unavailable("away")
GONE = FileNotFoundError(2, "No such file")


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ([embedded("MISS"), embedded("HIT")], 0),
        ([embedded("MISS"), failed(DAMAGED)], 2),
        ([failed(GONE)], 2),
        ([failed(AWAY), failed(DAMAGED)], 1),
        ([failed(SamserveError("internal error, incident 5"))], 1),
    ],
)
def test_the_exit_code_says_whose_fault_it_is(answers: list[BulkResult], code: int) -> None:
    summary = EmbedSummary()
    for answer in answers:
        summary.add(answer)
    assert summary.exit_code == code


def test_outcomes_are_counted() -> None:
    summary = EmbedSummary()
    for answer in (
        embedded("MISS"),
        embedded("MISS"),
        embedded("HIT"),
        embedded("COALESCED"),
        failed(DAMAGED),
    ):
        summary.add(answer)
    assert summary.lines() == [
        "5 images: 2 embedded, 1 already cached, 1 coalesced, 1 failed",
        "b.png: damaged",
    ]
    assert summary.as_json() == {
        "images": 5,
        "embedded": 2,
        "known": 1,
        "coalesced": 1,
        "failed": 1,
    }


def test_only_the_first_reasons_are_shown() -> None:
    summary = EmbedSummary()
    for _ in range(SHOWN + 3):
        summary.add(failed(DAMAGED))
    assert len(summary.lines()) == 1 + SHOWN + 1
    assert summary.lines()[-1] == "3 more failures; --json prints all"


def test_a_json_line_has_the_result_and_whether_a_retry_may_help() -> None:
    size = {"width": 3, "height": 2}
    assert result_as_json(embedded("HIT")) == {
        "path": "a.png",
        "image_id": "ab",
        "cache": "HIT",
        **size,
    }
    assert result_as_json(failed(GONE)) == {
        "path": "b.png",
        "error": "No such file",
        "retry": False,
    }
    assert result_as_json(failed(AWAY)) == {"path": "b.png", "error": "away", "retry": True}
