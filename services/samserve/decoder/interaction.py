"""One Interact stream: the clicks on one image, and their answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import numpy as np

from samserve.core.arrays import Floats
from samserve.core.errors import InvalidInput, Overloaded
from samserve.decoder.masks.write import MaskAnswer, Output
from samserve.decoder.prompt import Prompt, PromptInput, check_inside, read_prompt
from samserve.decoder.registry import ServedModel
from samserve.decoder.segmenter import FoundImage, Segmenter
from samserve.infra.stages import StageClock
from samserve.infra.tracing import Kind, span
from samserve.wire.call import observe_call


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a stream.

    Attributes:
        id: The caller's number.
        prompt: All points so far and the box. Without a choice of `multimask` a first step gets
            three candidates, and one that refines an answer gets one mask. An error if the step
            was refused as it came in.
        reset: Forget the earlier answers.
    """

    id: int
    prompt: PromptInput | InvalidInput | Overloaded
    reset: bool


@dataclass(frozen=True, slots=True)
class StepAnswer:
    """The answer to one step.

    Attributes:
        step: The step's id.
        masks: Best first; none if the step failed or was superseded.
        superseded: A newer step came before this one was decoded.
        error: Why the step failed, although the stream continues.
        milliseconds: Time of each stage.
    """

    step: int
    masks: list[MaskAnswer] = field(default_factory=list)
    superseded: bool = False
    error: InvalidInput | Overloaded | None = None
    milliseconds: dict[str, float] = field(default_factory=dict)


MOST_SUPERSEDED = 64  # superseded steps that wait to be answered


class Interaction:
    """Accepts steps at any time, and answers each of them once, in order. Not thread-safe.

    One step is decoded at a time and one waits. A newer step supersedes the one that waits.

    Between two steps it keeps the image's key and not the image, whose memory only the resident
    images' bound limits. A step looks for the image again.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        model: ServedModel,
        image: FoundImage,
        output: Output,
        *,
        slow: float,
    ) -> None:
        """Begin with no earlier answer; steps that take longer than `slow` seconds are logged."""
        self._segmenter = segmenter
        self._model = model
        self._key = image.key
        self._size = image.ready.size
        self._output = output
        self._slow = slow

        self._best_logits: Floats | None = None  # [L, L], of the last answer's best mask
        self._waiting: Step | None = None
        self._superseded: list[int] = []
        self._changed = asyncio.Event()
        self._room = asyncio.Event()  # for further superseded steps
        self._room.set()
        self._ended = False
        self._reason: Exception | None = None

    def submit(self, step: Step) -> None:
        """Have the step answered; it supersedes one that waits."""
        if self._ended:
            return
        if self._waiting is not None:
            self._superseded.append(self._waiting.id)
            if len(self._superseded) >= MOST_SUPERSEDED:
                self._room.clear()
            step = replace(step, reset=step.reset or self._waiting.reset)
        self._waiting = step
        self._changed.set()

    async def wait_for_room(self) -> None:
        """Wait until the superseded steps have been answered, if they are many."""
        await self._room.wait()

    def end(self, reason: Exception | None = None) -> None:
        """Accept no more steps. `answers` ends after the accepted ones, and raises the reason."""
        if not self._ended:
            self._ended = True
            self._reason = reason
            self._changed.set()

    async def answers(self) -> AsyncIterator[StepAnswer]:
        """Yield the answers until the end."""
        while self._waiting is not None or not self._ended:
            await self._changed.wait()
            self._changed.clear()

            superseded, self._superseded = self._superseded, []
            step, self._waiting = self._waiting, None
            for step_id in superseded:
                yield StepAnswer(step_id, superseded=True)
            self._room.set()
            if step is not None:
                yield await self._answer(step)

        if self._reason is not None:
            raise self._reason

    async def _answer(self, step: Step) -> StepAnswer:
        if step.reset:
            self._best_logits = None

        clock = StageClock()
        with observe_call("Interact.step", clock=clock, slow=self._slow) as call:
            try:
                with span("Interact.step", Kind.SERVER):
                    masks = await self._decode(self._read(step.prompt), clock)
            except (InvalidInput, Overloaded) as error:
                call.fail(error)
                return StepAnswer(step.id, error=error)

        return StepAnswer(step.id, masks, milliseconds=clock.milliseconds)

    def _read(self, prompt: PromptInput | InvalidInput | Overloaded) -> Prompt:
        """Check the prompt, and add the last answer's logits unless it brings its own."""
        if isinstance(prompt, InvalidInput | Overloaded):
            raise prompt
        checked = read_prompt(prompt, self._model.low_res, "prompt")
        check_inside(checked, self._size, "prompt")

        logits = self._best_logits if checked.mask_input is None else checked.mask_input
        multimask = logits is None if prompt.multimask is None else prompt.multimask
        return replace(checked, mask_input=logits, multimask=multimask)

    async def _decode(self, prompt: Prompt, clock: StageClock) -> list[MaskAnswer]:
        image = await self._segmenter.find_again(self._key, self._model)
        answer = await self._segmenter.answer(self._model, image, prompt, self._output, clock)
        self._best_logits = _as_sent(answer.candidates.logits[0])
        return answer.masks


def _as_sent(logits: Floats) -> Floats:
    """Round the logits as sending them would, so that streams and calls of Predict agree."""
    return logits.astype(np.float16).astype(np.float32)
