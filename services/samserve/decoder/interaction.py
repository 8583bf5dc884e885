"""One image, click after click: what one Interact stream keeps, and how it answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import numpy as np

from samserve.core.errors import InvalidInput, Overloaded
from samserve.decoder.prompt import Floats, Prompt, check_prompt
from samserve.decoder.sam.prepared_image import ReadyImage
from samserve.decoder.segmenter import MaskAnswer, Output, Segmenter
from samserve.infra.stages import StageClock
from samserve.infra.tracing import Kind, span
from samserve.wire.call import observe_call
from samserve.wire.status import code_of


@dataclass(frozen=True, slots=True)
class Step:
    """prompt: all clicks so far and the box, or what is known to be wrong with it; multimask: None means three
    candidates when nothing is refined, else one mask; reset: refine nothing former.
    """

    id: int
    prompt: Prompt | InvalidInput
    multimask: bool | None
    reset: bool


@dataclass(frozen=True, slots=True)
class StepAnswer:
    """The answer to the step of that id: masks, best first, or what is wrong with it, or that a newer one came."""

    step: int
    masks: list[MaskAnswer] = field(default_factory=list)
    superseded: bool = False
    error: InvalidInput | Overloaded | None = None
    milliseconds: dict[str, float] = field(default_factory=dict)


class Interaction:
    """Takes steps at any time; answers each once, in their order. One step is decoded at a time, and one waits: a newer
    one takes its place. Not for several threads.
    """

    def __init__(
        self, segmenter: Segmenter, image: ReadyImage, output: Output, slow: float
    ) -> None:
        """slow: seconds; a step that takes longer is logged."""
        self._segmenter, self._image, self._output, self._slow = segmenter, image, output, slow
        self._former: Floats | None = None  # low-res logits [L, L] of the last answer's best mask
        self._waiting: Step | None = None
        self._superseded: list[int] = []
        self._news = asyncio.Event()
        self._ended = False
        self._reason: Exception | None = None

    def submit(self, step: Step) -> None:
        """Have the step answered, in place of one that waits."""
        if self._ended:
            return
        if self._waiting is not None:
            self._superseded.append(self._waiting.id)
            step = replace(step, reset=step.reset or self._waiting.reset)
        self._waiting = step
        self._news.set()

    def end(self, reason: Exception | None = None) -> None:
        """Take no more steps: `answers` ends when those taken are answered, by raising the reason if there is one."""
        if not self._ended:
            self._ended, self._reason = True, reason
            self._news.set()

    async def answers(self) -> AsyncIterator[StepAnswer]:
        """The answers, as they come, until the end."""
        while self._waiting is not None or not self._ended:
            await self._news.wait()
            self._news.clear()
            superseded, self._superseded = self._superseded, []
            step, self._waiting = self._waiting, None
            for older in superseded:
                yield StepAnswer(older, superseded=True)
            if step is not None:
                yield await self._answer(step)
        if self._reason is not None:
            raise self._reason

    async def _answer(self, step: Step) -> StepAnswer:
        if step.reset:
            self._former = None
        clock = StageClock()
        with observe_call("Interact.step", clock, self._slow) as outcome:
            try:
                with span("Interact.step", Kind.SERVER):
                    masks = await self._masks(self._refining(step), clock)
            except (InvalidInput, Overloaded) as error:
                outcome.code, outcome.reason = code_of(error).name, str(error)
                return StepAnswer(step.id, error=error)
        return StepAnswer(step.id, masks, milliseconds=clock.milliseconds)

    async def _masks(self, prompt: Prompt, clock: StageClock) -> list[MaskAnswer]:
        ((candidates, masks),) = await self._segmenter.answer(
            self._image, [prompt], self._output, clock
        )
        self._former = _as_sent(candidates.logits[0])
        return masks

    def _refining(self, step: Step) -> Prompt:
        """The step's prompt, checked, with the former answer's logits unless it brings its own."""
        if isinstance(step.prompt, InvalidInput):
            raise step.prompt
        check_prompt(step.prompt, self._image.size, "prompt")
        logits = self._former if step.prompt.mask_input is None else step.prompt.mask_input
        multimask = logits is None if step.multimask is None else step.multimask
        return replace(step.prompt, mask_input=logits, multimask=multimask)


def _as_sent(logits: Floats) -> Floats:
    """The logits after a way to the caller and back, so that a stream and calls of Predict answer alike."""
    return logits.astype(np.float16).astype(np.float32)
