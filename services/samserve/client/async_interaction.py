"""A stream for one image, for asyncio: click, answer, next click."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from itertools import count
from typing import Any

import grpc.aio

from samserve.client.answer import Answer, EmbedAnswer, read_embed_answer
from samserve.client.base import DECODER
from samserve.client.prompt import BoxInput, Logits, Points, Prompt
from samserve.client.steps import read_step, write_step
from samserve.core.errors import DeadlinePassed, Unavailable
from samserve.v1 import segmentation_pb2 as pb
from samserve.wire.status import error_of


class AsyncInteraction(AbstractAsyncContextManager["AsyncInteraction"]):
    """An open stream for one image, as `Interaction`. One step at a time."""

    def __init__(self, call: Any, opened: pb.InteractResponse.Opened, timeout: float) -> None:
        """Wrap an opened stream; `AsyncClient.interact` opens one."""
        self._call = call
        self._opened = opened
        self._timeout = timeout
        self._ids = count(1)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._call.cancel()
        await self.close()

    async def close(self) -> None:
        """Half-close, and wait until the service ends the stream."""
        if not self._call.done():
            await self._call.done_writing()
            await self._call.read()

    @property
    def image(self) -> EmbedAnswer:
        """The image, as `AsyncClient.embed` answers."""
        return read_embed_answer(self._opened)

    async def step(
        self,
        points: Points = (),
        *,
        box: BoxInput | None = None,
        mask_input: Logits = b"",
        multimask: bool | None = None,
        reset: bool = False,
        clamp: bool = False,
    ) -> Answer:
        """Answer the whole prompt as it is now. Arguments and errors as of `Interaction.step`."""
        prompt = Prompt(points, box, mask_input, multimask)
        size = self.image.size if clamp else None
        request = write_step(next(self._ids), prompt, reset=reset, size=size)
        response = await exchange(self._call, request, self._timeout)
        return read_step(self._opened, response.answer)


async def open_interaction(
    start: Callable[[], Any], opening: pb.InteractRequest.Open, seconds: float
) -> AsyncInteraction:
    """Open a stream and wait for the image. Arguments as of `Interaction`."""
    call = start()
    response = await exchange(call, pb.InteractRequest(open=opening), seconds)
    return AsyncInteraction(call, response.opened, seconds)


async def exchange(call: Any, request: pb.InteractRequest, seconds: float) -> pb.InteractResponse:
    """Send a message of a stream, and return the answer to it.

    Raises:
        SamserveError: As `error_of` translates; DeadlinePassed if no answer comes in time, which
            ends the stream; Unavailable if the stream has ended.
    """
    try:
        async with asyncio.timeout(seconds):
            await call.write(request)
            response = await call.read()
    except TimeoutError as late:
        call.cancel()
        raise DeadlinePassed(DECODER) from late
    except grpc.aio.AioRpcError as problem:
        raise error_of(problem, DECODER) from problem
    except asyncio.InvalidStateError:  # the stream has ended before this message
        response = grpc.aio.EOF

    if response is grpc.aio.EOF:
        raise Unavailable("the decoder ended the stream; open another interaction")
    message: pb.InteractResponse = response
    return message
