"""Prompts and options on their way to the service, answers on their way back."""

from typing import Any

import numpy as np
import pytest
from samserve.client import Box, CacheStatus, Click, Mask, Prompt
from samserve.client.answer import read_answer
from samserve.client.output import write_output
from samserve.client.prompt import write_prompt, write_prompts
from samserve.core.errors import InvalidInput
from samserve.core.geometry import Size
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import types_pb2 as types

LOGITS = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float16)


def mask(low_res_logits: bytes) -> Mask:
    return Mask(Size(3, 2), b"", 1, 1, 0, (0, 0, 0, 0), low_res_logits, b"", [], b"")


def test_logits_are_sent_as_an_array_or_as_the_bytes_of_an_answer() -> None:
    as_array = write_prompt(Prompt([Click(1, 2)], mask_input=LOGITS))
    as_bytes = write_prompt(Prompt([Click(1, 2)], mask_input=LOGITS.astype("<f2").tobytes()))
    assert as_array == as_bytes
    transposed = write_prompt(Prompt(mask_input=LOGITS.T))
    assert transposed.mask_input == LOGITS.T.copy().tobytes()


def test_logits_of_an_answer_are_an_array_that_can_be_sent_again() -> None:
    logits = mask(LOGITS.tobytes()).low_res_array()
    assert logits.shape == (256, 256)
    assert np.array_equal(logits, LOGITS)
    assert write_prompt(Prompt(mask_input=logits)).mask_input == LOGITS.tobytes()


def test_an_answer_without_logits_says_how_to_request_them() -> None:
    with pytest.raises(ValueError, match="low_res_logits=True"):
        mask(b"").low_res_array()


@pytest.mark.parametrize("logits", [LOGITS.astype(np.float32), LOGITS.reshape(1, 256, 256)])
def test_logits_of_another_type_or_shape_are_invalid(logits: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match=r"expected float16 \[256, 256\]") as caught:
        write_prompt(Prompt(mask_input=logits))
    assert caught.value.field == "mask_input"


def test_formats_are_named_in_lower_case() -> None:
    options = write_output(formats=["rle", "png", "polygons", "bits"])
    assert [pb.MaskFormat.Name(number) for number in options.formats] == [
        "MASK_FORMAT_RLE",
        "MASK_FORMAT_PNG",
        "MASK_FORMAT_POLYGONS",
        "MASK_FORMAT_BITS",
    ]


@pytest.mark.parametrize("name", ["jpeg", "RLE", "unspecified", ""])
def test_an_unknown_format_is_answered_with_those_available(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        write_output(formats=[name])
    assert str(caught.value) == (
        f"unknown mask format {name!r}; available: rle, png, polygons, bits"
    )


def test_an_answer_says_whether_it_was_a_cache_hit() -> None:
    response = pb.PredictResponse(
        image=types.ImageRef(image_id="ab", model_version="v1", width=3, height=2),
        cache=types.CACHE_STATUS_COALESCED,
        results=[pb.PromptResult()],
    )
    answer = read_answer(response)
    assert answer.cache is CacheStatus.COALESCED
    assert answer.as_json()["cache"] == "COALESCED"


POINTS = [Click(1, 2), Click(3, 4.5, on=False)]


@pytest.mark.parametrize(
    "points",
    [
        [(1, 2), (3, 4.5, 0)],
        ((1, 2, 1), [3, 4.5, False]),
        [Click(1, 2), np.array([3, 4.5, 0])],
        np.array([[1, 2, 1], [3, 4.5, 0]], np.float32),
        [Click(np.int64(1), np.float32(2)), Click(3, 4.5, on=np.False_)],
        [Click(1, 2, on=1), Click(3, 4.5, on=0)],
    ],
)
def test_points_are_clicks_tuples_or_rows_of_an_array(points: Any) -> None:
    assert write_prompt(Prompt(points)) == write_prompt(Prompt(POINTS))


@pytest.mark.parametrize("box", [(1, 2, 3, 4.5), [1, 2, 3, 4.5], np.array([1, 2, 3, 4.5])])
def test_a_box_is_a_tuple_a_list_or_an_array_too(box: Any) -> None:
    assert write_prompt(Prompt(box=box)) == write_prompt(Prompt(box=Box(1, 2, 3, 4.5)))


@pytest.mark.parametrize(
    ("prompt", "field", "says"),
    [
        (Prompt([Click(1, 1, on="0")]), "points[0]", "label '0'; expected True or 1"),
        (Prompt([(1, 1), (1, 1, -1)]), "points[1]", "label -1; expected True or 1"),
        (Prompt([Click(1, 1, on=None)]), "points[0]", "label None; expected"),
        (Prompt([Click("1", 1)]), "points[0].x", "'1' is a str; expected a number"),
        (Prompt([(1, None)]), "points[0].y", "None is a NoneType; expected a number"),
        (Prompt([(1, 2, 1, 0)]), "points[0]", "4 values; expected a Click, (x, y) or"),
        (Prompt((1, 2)), "points[0]", "1 is a int; expected a Click, (x, y) or (x, y, label)"),
        (Prompt(Click(1, 2)), "points", "is a Click; expected a sequence of points"),
        (Prompt("1,2"), "points", "'1,2' is a str; expected a sequence of points"),
        (Prompt(box=(1, 2, 3)), "box", "3 values; expected a Box or (x0, y0, x1, y1)"),
        (Prompt(box=5), "box", "5 is a int; expected a Box or"),
        (Prompt(box=("a", 2, 3, 4)), "box.x0", "'a' is a str; expected a number"),
        (Prompt([(1, 2)], multimask="no"), "multimask", "'no' is a str; expected True, False"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_a_sentence(
    prompt: Any, field: str, says: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        write_prompts([Prompt(POINTS), prompt])
    assert caught.value.field == f"prompts[1].{field}"
    assert str(caught.value).startswith(f"prompts[1].{field}: ")
    assert says in str(caught.value)


def test_something_that_is_no_prompt_is_refused_by_a_sentence() -> None:
    with pytest.raises(InvalidInput, match=r"prompts\[0\]: .* is a dict; expected a Prompt"):
        write_prompts([{"points": []}])  # type: ignore[list-item]
    with pytest.raises(InvalidInput, match="mask_input: 'logits' is a str; expected bytes or"):
        write_prompts([Prompt(mask_input="logits")])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("box", "cut"),
    [
        ((-0.4, 5, 100.3, 40), (0, 5, 100, 40)),
        ((5, -9, 20, 999), (5, 0, 20, 50)),
        ((5, 5, 20, 20), (5, 5, 20, 20)),
        ((200, 5, 220, 20), (200, 5, 220, 20)),  # wholly outside: for the service to refuse
    ],
)
def test_a_box_is_cut_off_at_the_images_edges(box: Any, cut: Any) -> None:
    assert write_prompt(Prompt(box=box), size=Size(100, 50)) == write_prompt(Prompt(box=cut))
