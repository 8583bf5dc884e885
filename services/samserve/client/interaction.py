"""A stream for one image: click, answer, next click."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from itertools import count
from queue import SimpleQueue
from threading import Timer
from typing import Any

import grpc

from samserve.client.answer import Answer, EmbedAnswer, read_embed_answer
from samserve.client.base import DECODER
from samserve.client.prompt import BoxInput, Logits, Points, Prompt
from samserve.client.steps import read_step, write_step
from samserve.core.errors import DeadlinePassed, SamserveError, Unavailable
from samserve.v1 import segmentation_pb2 as pb
from samserve.wire.status import error_of


class Interaction(AbstractContextManager["Interaction"]):
    """An open stream for one image. Not safe for use from several threads at once.

    A step fails alone: an invalid prompt raises InvalidInput, a full decoder queue Overloaded, and
    the next step works. Unavailable means that the stream has ended, because it reached its maximum
    lifetime or its replica stopped. Open another interaction then; pass `mask_input` to continue
    from logits that you requested.
    """

    def __init__(
        self,
        start: Callable[[Iterator[pb.InteractRequest]], Any],
        opening: pb.InteractRequest.Open,
        timeout: float,
    ) -> None:
        """Open the stream and wait for the image.

        Args:
            start: the Interact call.
            opening: the first request.
            timeout: seconds to wait for each answer.
        """
        self._requests: SimpleQueue[pb.InteractRequest | None] = SimpleQueue()
        self._call = start(iter(self._requests.get, None))
        self._timeout = timeout
        self._ids = count(1)
        self._timed_out = False

        try:
            self._opened = self._ask(pb.InteractRequest(open=opening)).opened
        except BaseException:
            self._call.cancel()
            self.close()
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._call.cancel()
        self.close()

    def close(self) -> None:
        """Half-close, and wait until the service ends the stream."""
        self._requests.put(None)
        with suppress(SamserveError):  # a stream that has failed has ended already
            self._receive()

    @property
    def image(self) -> EmbedAnswer:
        """The image, as Client.embed answers."""
        return read_embed_answer(self._opened)

    def step(
        self,
        points: Points = (),
        *,
        box: BoxInput | None = None,
        mask_input: Logits = b"",
        multimask: bool | None = None,
        reset: bool = False,
        clamp: bool = False,
    ) -> Answer:
        """Answer the whole prompt as it is now. Refines the previous step's best mask.

        Args:
            points: all clicks so far, as in `Prompt`.
            box: a rectangle around the object, as in `Prompt`.
            mask_input: logits to refine instead of the previous step's, as in `Prompt`.
            multimask: True for three candidates, False for one mask; None for three if nothing
                is refined, else one.
            reset: start with another object; nothing earlier is refined.
            clamp: cut the box off at the image's edges instead of refusing one that is partly
                outside.
        """
        prompt = Prompt(points, box, mask_input, multimask)
        size = self.image.size if clamp else None
        request = write_step(next(self._ids), prompt, reset=reset, size=size)
        return read_step(self._opened, self._ask(request).answer)

    def _ask(self, request: pb.InteractRequest) -> pb.InteractResponse:
        self._requests.put(request)
        response = self._receive()
        if response is None:
            raise Unavailable("the decoder ended the stream; open another interaction")
        return response

    def _receive(self) -> pb.InteractResponse | None:
        """The next response; None at the stream's end.

        gRPC has no deadline for a single message of a stream, so a timer cancels the call.
        """
        timer = Timer(self._timeout, self._time_out)
        timer.start()

        try:
            response: pb.InteractResponse | None = next(self._call, None)
        except grpc.RpcError as problem:
            if self._timed_out:
                raise DeadlinePassed(DECODER) from problem
            raise error_of(problem, DECODER) from problem
        finally:
            timer.cancel()

        return response

    def _time_out(self) -> None:
        self._timed_out = True
        self._call.cancel()
