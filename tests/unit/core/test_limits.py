import pytest
from samserve.core.errors import (
    EmbeddingNotCached,
    InvalidInput,
    ModelNotFound,
    ModelVersionMismatch,
    shorten,
)
from samserve.core.image_id import check_expected
from samserve.core.limits import check_count, check_string


def test_a_count_over_the_limit_is_refused_with_field_value_and_limit() -> None:
    check_count(64, 64, "prompts[3].points", "points")
    with pytest.raises(InvalidInput) as caught:
        check_count(8_000, 64, "prompts[3].points", "points")
    assert caught.value.field == "prompts[3].points"
    assert str(caught.value) == "prompts[3].points: 8,000 points; the limit is 64"


def test_a_string_of_64_characters_is_the_longest() -> None:
    assert check_string("m" * 64, "model") == "m" * 64
    with pytest.raises(InvalidInput, match="model: 65 characters; the limit is 64"):
        check_string("m" * 65, "model")


def test_a_callers_string_is_cut_at_100_characters() -> None:
    assert shorten("x" * 100) == "x" * 100
    assert shorten("x" * 101) == "x" * 97 + "..."


@pytest.mark.parametrize(
    "error",
    [
        EmbeddingNotCached("x" * 10_000),
        ModelNotFound("x" * 10_000, ["nano"]),
        ModelVersionMismatch("x" * 10_000, "nano-1"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_echo_a_callers_string_in_part(error: Exception) -> None:
    assert len(str(error)) < 300
    assert all(len(str(value)) <= 100 for value in vars(error).values())


def test_an_unexpected_id_is_echoed_in_part() -> None:
    with pytest.raises(InvalidInput) as caught:
        check_expected("a" * 64, "x" * 10_000)
    assert len(str(caught.value)) < 300
