"""Prompts and options on their way to the service, answers on their way back."""

import numpy as np
import pytest
from samserve.client import CacheStatus, Click, Mask, Prompt
from samserve.client.answer import read_answer
from samserve.client.output import write_output
from samserve.client.prompt import write_prompt
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
