"""The messages of an Interact stream: steps as they are sent, answers as they are read."""

from __future__ import annotations

from samserve.client.answer import Answer, read_answer
from samserve.client.base import DECODER
from samserve.client.prompt import Prompt, write_prompt
from samserve.core.geometry import Size
from samserve.v1 import segmentation_pb2 as pb
from samserve.wire.status import error_in


def write_step(
    number: int, prompt: Prompt, *, reset: bool, size: Size | None
) -> pb.InteractRequest:
    """Write a step.

    Args:
        number: Its id in the stream.
        prompt: The whole prompt as it is now.
        reset: Whether it starts another object.
        size: Of the image, to cut a box off at its edges; None leaves the box as it is.

    Raises:
        InvalidInput: The prompt is invalid.
    """
    step = pb.InteractRequest.Step(id=number, prompt=write_prompt(prompt, size=size), reset=reset)
    return pb.InteractRequest(step=step)


def read_step(opened: pb.InteractResponse.Opened, answer: pb.InteractResponse.Answer) -> Answer:
    """Read the answer to a step.

    Args:
        opened: The stream's first response.
        answer: The step's.

    Raises:
        SamserveError: The step failed.
    """
    if answer.HasField("error"):
        raise error_in(answer.error, DECODER)

    return read_answer(
        pb.PredictResponse(
            image=opened.image,
            cache=opened.cache,
            results=[pb.PromptResult(masks=answer.masks)],
            timings=answer.timings,
        )
    )
