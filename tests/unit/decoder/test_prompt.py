import numpy as np
import pytest
from samserve.core.errors import InvalidInput
from samserve.core.geometry import Frame, Size
from samserve.decoder.prompt import (
    Prompt,
    PromptInput,
    check_all_inside,
    check_shape,
    read_prompt,
    read_prompts,
    tokens,
)

SIZE = Size(640, 427)


def prompt(
    points: list[tuple[float, float]] | None = None, box: list[float] | None = None
) -> Prompt:
    return Prompt(
        points=np.array(points or [], np.float32).reshape(-1, 2),
        labels=np.ones(len(points or []), np.float32),
        box=None if box is None else np.array(box, np.float32),
        mask_input=None,
        multimask=True,
    )


@pytest.mark.parametrize(
    "good",
    [
        prompt([(0, 0)]),
        prompt([(640, 427)]),
        prompt(box=[0, 0, 640, 427]),
        prompt([(3, 4)], [1, 1, 9, 9]),
    ],
)
def test_prompts_on_the_image_are_valid(good: Prompt) -> None:
    check_shape(good, "prompt")
    check_all_inside([good], SIZE)


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (prompt(), "prompt"),
        (prompt([(float("nan"), 3)]), "prompt.points"),
        (prompt([(float("inf"), 3)]), "prompt.points"),
        (prompt(box=[5, 5, 5, 9]), "prompt.box"),
        (prompt(box=[9, 5, 5, 9]), "prompt.box"),
        (prompt(box=[0, 0, float("nan"), 9]), "prompt.box"),
    ],
)
def test_an_invalid_prompt_is_refused_by_field_whatever_the_image(bad: Prompt, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_shape(bad, "prompt")
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("outside", "field"),
    [
        (prompt([(641, 3)]), "prompts[0].points"),
        (prompt([(-1, 3)]), "prompts[0].points"),
        (prompt(box=[0, 0, 641, 9]), "prompts[0].box"),
    ],
)
def test_a_prompt_outside_the_image_is_refused_by_field(outside: Prompt, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_all_inside([outside], SIZE)
    assert caught.value.field == field


def test_no_prompt_at_all_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no prompt"):
        read_prompts([], 256)


def mask_alone(logits: bytes) -> PromptInput:
    return PromptInput(np.zeros((0, 2), np.float32), np.zeros(0, np.float32), mask_input=logits)


def test_logits_are_read_as_the_model_wrote_them() -> None:
    logits = np.arange(16, dtype=np.float32).reshape(4, 4)
    read = read_prompt(mask_alone(logits.astype("<f2").tobytes()), 4, "prompt").mask_input
    assert read is not None
    assert read.dtype == np.float32
    assert np.array_equal(read, logits)


@pytest.mark.parametrize("logits", [b"\0" * 31, b"\0" * 30, np.full(16, np.nan, "<f2").tobytes()])
def test_logits_of_another_size_or_that_are_not_finite_are_refused(logits: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_prompts([mask_alone(logits)], 4)
    assert caught.value.field == "prompts[0].mask_input"


def test_clicks_are_padded_and_a_box_is_two_corners() -> None:
    points, labels = tokens(prompt([(64, 42.7)]), SIZE, Frame(1024))
    assert labels.tolist() == [1, -1]
    assert np.allclose(points, [[102.4, 68.3], [0, 0]], atol=1e-4)
    points, labels = tokens(prompt([(64, 42.7)], [0, 0, 640, 427]), SIZE, Frame(1024))
    assert labels.tolist() == [1, 2, 3]
    assert np.allclose(points[1:], [[0, 0], [1024, 683]], atol=1e-4)


def test_sam_2_pads_every_prompt() -> None:
    frame = Frame(1024, stretch=True)
    points, labels = tokens(prompt([(64, 42.7)]), SIZE, frame, always_padded=True)
    assert labels.tolist() == [1, -1]
    assert np.allclose(points, [[102.4, 102.4], [0, 0]], atol=1e-4)
    points, labels = tokens(prompt([(64, 42.7)], [0, 0, 640, 427]), SIZE, frame, always_padded=True)
    assert labels.tolist() == [1, 2, 3, -1]
    assert np.allclose(points[1:], [[0, 0], [1024, 1024], [0, 0]], atol=1e-4)


@pytest.mark.parametrize(("always_padded", "wanted"), [(False, []), (True, [-1, -1])])
def test_a_mask_alone_has_no_tokens_but_sam_2s_padding(
    always_padded: bool, wanted: list[float]
) -> None:
    points, labels = tokens(prompt(), SIZE, Frame(1024), always_padded)
    assert labels.tolist() == wanted
    assert points.shape == (len(wanted), 2)
