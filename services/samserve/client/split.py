"""Sends many prompts on one image as several calls of moderate size.

A service takes a bounded number of prompts in a call, and lets a small call in beside others.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, replace

from samserve.client.answer import Answer
from samserve.core.errors import InvalidInput
from samserve.v1 import segmentation_pb2 as pb

PART = 16  # prompts in a call; a decoder takes 64, and two threads and a queue of 24 beside others
IN_FLIGHT = 2  # calls


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive prompts of a caller.

    Attributes:
        first: Number of the first of them.
        prompts: The prompts.
    """

    first: int
    prompts: Sequence[pb.Prompt]


def ask_in_parts(prompts: Sequence[pb.Prompt], ask: Callable[[Part], Answer]) -> Answer:
    """Answer the prompts in their order, by one call or several.

    The first call is made alone: it uploads the image if it must.

    Raises:
        InvalidInput: As `ask` does; the error names the prompt by its number among all.
    """
    first_part, *parts = _parts(prompts)
    first = ask(first_part)
    if not parts:
        return first

    def ask_for(part: Part) -> Answer:
        with _renumbering(part):
            return ask(part)

    pool = ThreadPoolExecutor(IN_FLIGHT, "samserve-parts")
    try:
        calls = [pool.submit(copy_context().run, ask_for, part) for part in parts]
        rest = [call.result() for call in calls]
    finally:
        pool.shutdown(cancel_futures=True)

    return _joined([first, *rest])


async def ask_in_parts_async(
    prompts: Sequence[pb.Prompt], ask: Callable[[Part], Awaitable[Answer]]
) -> Answer:
    """The same for asyncio."""
    first_part, *parts = _parts(prompts)
    first = await ask(first_part)
    if not parts:
        return first

    places = asyncio.Semaphore(IN_FLIGHT)

    async def ask_for(part: Part) -> Answer:
        async with places:
            with _renumbering(part):
                return await ask(part)

    calls = [asyncio.ensure_future(ask_for(part)) for part in parts]
    try:
        rest = await asyncio.gather(*calls)
    finally:
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    return _joined([first, *rest])


def _parts(prompts: Sequence[pb.Prompt]) -> list[Part]:
    """Cut the prompts into parts; at least one, since a call without prompts is answered too."""
    starts = range(0, len(prompts), PART) or [0]
    return [Part(first, prompts[first : first + PART]) for first in starts]


@contextmanager
def _renumbering(part: Part) -> Iterator[None]:
    """Make errors in the block name prompts by their numbers among all."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(_shift(error.field, part), _shift(str(error), part)) from error


def _shift(text: str, part: Part) -> str:
    """Replace the numbers of prompts in one call by their numbers among all."""
    return re.sub(
        r"\bprompts\[(\d+)\]", lambda found: f"prompts[{int(found[1]) + part.first}]", text
    )


def _joined(answers: Sequence[Answer]) -> Answer:
    """All results, with the first answer's facts and the sums of the times."""
    times: dict[str, float] = {}
    for answer in answers:
        for stage, milliseconds in answer.timings_ms.items():
            times[stage] = times.get(stage, 0.0) + milliseconds

    results = [result for answer in answers for result in answer.results]
    return replace(answers[0], timings_ms=times, results=results)
