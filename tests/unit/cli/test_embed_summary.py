from pathlib import Path

import pytest
from samserve.cli.embed_summary import SHOWN, EmbedSummary, line_of
from samserve.client import BulkResult, EmbedAnswer
from samserve.core.errors import InvalidInput, SamserveError, Unavailable
from samserve.core.geometry import Size


def done(cache: str) -> BulkResult:
    return BulkResult(Path("a.png"), EmbedAnswer("ab", "v1", Size(3, 2), cache, {}))


def failed(error: SamserveError | OSError) -> BulkResult:
    return BulkResult(Path("b.png"), error=error)


DAMAGED, AWAY, GONE = (
    InvalidInput("data", "damaged"),
    Unavailable("away"),
    FileNotFoundError(2, "No such file"),
)


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ([done("MISS"), done("HIT")], 0),
        ([done("MISS"), failed(DAMAGED)], 2),
        ([failed(GONE)], 2),
        ([failed(AWAY), failed(DAMAGED)], 1),
        ([failed(SamserveError("internal error, incident 5"))], 1),
    ],
)
def test_the_exit_code_says_whose_fault_it_is(answers: list[BulkResult], code: int) -> None:
    tally = EmbedSummary()
    for answer in answers:
        tally.add(answer)
    assert tally.exit_code == code


def test_outcomes_are_counted() -> None:
    tally = EmbedSummary()
    for answer in (done("MISS"), done("MISS"), done("HIT"), done("COALESCED"), failed(DAMAGED)):
        tally.add(answer)
    assert tally.summary() == [
        "5 images: 2 embedded, 1 known already, 1 coalesced, 1 failed",
        "b.png: damaged",
    ]
    assert tally.as_json() == {"images": 5, "embedded": 2, "known": 1, "coalesced": 1, "failed": 1}


def test_only_the_first_reasons_are_shown() -> None:
    tally = EmbedSummary()
    for _ in range(SHOWN + 3):
        tally.add(failed(DAMAGED))
    assert len(tally.summary()) == 1 + SHOWN + 1
    assert tally.summary()[-1] == "and 3 more; --json prints them all"


def test_a_machine_reads_what_became_of_an_image_and_whether_to_try_again() -> None:
    size = {"width": 3, "height": 2}
    assert line_of(done("HIT")) == {"path": "a.png", "image_id": "ab", "cache": "HIT", **size}
    assert line_of(failed(GONE)) == {"path": "b.png", "error": "No such file", "retry": False}
    assert line_of(failed(AWAY)) == {"path": "b.png", "error": "away", "retry": True}
