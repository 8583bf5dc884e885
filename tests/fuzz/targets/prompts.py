"""Any prompt is answered with finite scores, or refused as invalid input."""

from __future__ import annotations

import atheris
import numpy as np
from fuzz.values import LOW_RES, small_bundle, small_decoder, small_image
from samserve.core.errors import InvalidInput
from samserve.decoder.prompt import PromptInput, check_all_inside, read_prompts, tokens

MOST_BYTES = 4096
DECODED = 16  # one in so many valid prompts is decoded, which takes a hundred times as long
KINDS = ("float", "inside", "edge")


def check(data: bytes) -> None:
    source = atheris.FuzzedDataProvider(data)
    inputs = [prompt(source) for _ in range(source.ConsumeIntInRange(0, 3))]
    image = small_image()
    try:
        prompts = read_prompts(inputs, LOW_RES)
        check_all_inside(prompts, image.size)
    except InvalidInput as problem:
        assert problem.field.startswith("prompts")
        return

    for one in prompts:
        points, labels = tokens(one, image.size, small_bundle().frame)
        assert len(points) == len(labels)
        assert np.isfinite(points).all()
    if source.ConsumeIntInRange(0, DECODED - 1) == 0:
        for candidates in small_decoder().decode(image, prompts):
            assert np.isfinite(candidates.logits).all()
            assert np.isfinite(candidates.predicted_iou).all()


def prompt(source: atheris.FuzzedDataProvider) -> PromptInput:
    count = source.ConsumeIntInRange(0, 12)
    numbers = [number(source) for _ in range(2 * count)]
    has_mask = source.ConsumeIntInRange(0, 3)
    with np.errstate(over="ignore"):
        return PromptInput(
            points=np.array(numbers, np.float32).reshape(-1, 2),
            labels=np.array([source.ConsumeIntInRange(0, 1) for _ in range(count)], np.float32),
            box=np.array([number(source) for _ in range(4)], np.float32)
            if source.ConsumeBool()
            else None,
            mask_input=mask_input(source, has_mask),
            multimask=(True, False, None)[source.ConsumeIntInRange(0, 2)],
        )


def number(source: atheris.FuzzedDataProvider) -> float:
    match KINDS[source.ConsumeIntInRange(0, 2)]:
        case "float":
            return source.ConsumeFloat()
        case "inside":
            return source.ConsumeFloatInRange(0, 200)
        case _:
            return (0.0, 200.0, 320.0, -0.0)[source.ConsumeIntInRange(0, 3)]


def mask_input(source: atheris.FuzzedDataProvider, kind: int) -> bytes:
    if kind == 0:
        return source.ConsumeBytes(source.ConsumeIntInRange(0, 64))
    if kind == 1:
        some = source.ConsumeBytes(source.ConsumeIntInRange(1, 256)) or b"\0"
        return (some * (2 * LOW_RES**2))[: 2 * LOW_RES**2]
    return b""
