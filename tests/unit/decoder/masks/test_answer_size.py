"""An answer's size, known in advance or counted as it grows."""

import threading
from dataclasses import dataclass

import numpy as np
import pytest
from samserve.core.arrays import Floats
from samserve.core.errors import InvalidInput
from samserve.core.geometry import Frame, Size
from samserve.decoder import messages
from samserve.decoder.masks import write
from samserve.decoder.masks.answer_size import AnswerSize
from samserve.decoder.masks.write import Output, expected_bytes, write_mask, write_masks
from samserve.decoder.prompt import Prompt

FRAME = Frame(1024)
SIZE = Size(1000, 700)
EVERYTHING = Output(rle=True, png=True, polygons=True, bits=True, low_res_logits=True)


def noise(masks: int) -> Floats:
    return np.random.default_rng(1).normal(size=(masks, 256, 256)).astype(np.float32)


@dataclass
class Scored:
    logits: Floats

    def __post_init__(self) -> None:
        self.predicted_iou = self.stability = np.ones(len(self.logits), np.float32)
        self.order = np.arange(len(self.logits))


def prompt(multimask: bool) -> Prompt:
    point, label = np.zeros((1, 2), np.float32), np.ones(1, np.float32)
    return Prompt(point, label, box=None, mask_input=None, multimask=multimask)


@pytest.mark.parametrize("form", ["rle", "png", "polygons", "bits", "low_res_logits", ""])
def test_a_masks_size_is_that_of_its_message(form: str) -> None:
    output = Output(**{form: True}) if form else EVERYTHING
    mask = write_mask(noise(1)[0], (0.9, 0.9), SIZE, FRAME, output)
    sent = messages.mask_to_proto(mask, SIZE).ByteSize()
    assert sent <= mask.sent_bytes
    assert mask.sent_bytes - sent <= 100 + 0.1 * sent


def test_the_size_of_bits_and_logits_is_known_in_advance() -> None:
    output = Output(bits=True, low_res_logits=True)
    one = 125 * 700 + 2 * 256 * 256
    asked = [prompt(multimask=True), prompt(multimask=False)]
    assert expected_bytes(asked, output, SIZE, 256) == 4 * one
    assert expected_bytes(asked, Output(bits=True, max_masks=2), SIZE, 256) == 3 * 125 * 700
    assert expected_bytes(asked, Output(rle=True, max_masks=9), SIZE, 256) == 0
    masks = write_masks(Scored(noise(3)), SIZE, FRAME, output, AnswerSize(10 * one))
    assert 3 * one <= sum(mask.sent_bytes for mask in masks) <= 3 * one + 300


def test_an_answer_of_as_many_bytes_as_allowed_passes() -> None:
    size = AnswerSize(100)
    size.check(expected=100)
    size.add(60)
    size.add(40)
    size.check()
    for grow in (lambda: size.add(1), size.check, lambda: size.add(0)):
        with pytest.raises(InvalidInput, match="101 bytes or more; the limit is 100") as caught:
            grow()
        assert caught.value.field == "output.formats"


def test_bytes_of_several_threads_are_all_counted() -> None:
    size = AnswerSize(80_000)
    threads = [
        threading.Thread(target=lambda: [size.add(1) for _ in range(10_000)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    size.check()
    with pytest.raises(InvalidInput):
        size.add(1)


def test_masks_of_noise_are_written_up_to_the_limit_only(monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def count(*args: object) -> write.MaskAnswer:
        mask = write_mask(*args)  # type: ignore[arg-type]
        written.append(mask.sent_bytes)
        return mask

    monkeypatch.setattr(write, "write_mask", count)
    limit = 400_000
    size = AnswerSize(limit)
    for _ in range(20):
        with pytest.raises(InvalidInput):
            write_masks(Scored(noise(20)), SIZE, FRAME, EVERYTHING, size)
    assert sum(written) - written[-1] <= limit < sum(written)
