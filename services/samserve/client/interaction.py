"""A stream for one image: click, answer, next click."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import count
from queue import SimpleQueue
from threading import Timer
from typing import Any

import grpc

from samserve.client.answer import Answer, EmbedAnswer, read_answer, read_embed_answer
from samserve.client.prompt import Box, Click, Prompt, write_prompt
from samserve.core.errors import DeadlinePassed, SamserveError, Unavailable
from samserve.v1 import segmentation_pb2 as pb
from samserve.wire.status import error_in, error_of


class Interaction(AbstractContextManager["Interaction"]):
    """One image that is being clicked on; `image` describes it. Not for several threads at once.

    A wrong step raises InvalidInput, one that finds the decoder's queue full Overloaded, and the next one goes on.
    Unavailable means that the stream has ended, as it does after some minutes or when its replica goes away: open
    another interaction and go on there, with `mask_input` if the logits were asked for.
    """

    def __init__(
        self,
        start: Callable[[Iterator[pb.InteractRequest]], Any],
        opening: pb.InteractRequest.Open,
        timeout: float,
    ) -> None:
        self._requests: SimpleQueue[pb.InteractRequest | None] = SimpleQueue()
        self._call, self._timeout, self._ids = (
            start(iter(self._requests.get, None)),
            timeout,
            count(1),
        )
        self._late = False
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
        """Half-close, and let the service end the stream; one that has failed is over already."""
        self._requests.put(None)
        with suppress(SamserveError):
            self._receive()

    @property
    def image(self) -> EmbedAnswer:
        """The image, as Client.embed answers."""
        return read_embed_answer(self._opened)

    def step(
        self,
        points: Sequence[Click] = (),
        box: Box | None = None,
        mask_input: bytes = b"",
        multimask: bool | None = None,
        reset: bool = False,
    ) -> Answer:
        """Masks for the whole prompt as it is now. It refines the last step's best mask, unless that is reset.

        multimask None: three candidates when nothing is refined, else one mask.
        """
        prompt = write_prompt(Prompt(points, box, mask_input, multimask))
        step = pb.InteractRequest.Step(id=next(self._ids), prompt=prompt, reset=reset)
        answer = self._ask(pb.InteractRequest(step=step)).answer
        if answer.HasField("error"):
            raise error_in(answer.error, "the decoder")
        return read_answer(
            pb.PredictResponse(
                image=self._opened.image,
                cache=self._opened.cache,
                results=[pb.PromptResult(masks=answer.masks)],
                timings=answer.timings,
            )
        )

    def _ask(self, request: pb.InteractRequest) -> pb.InteractResponse:
        self._requests.put(request)
        answer = self._receive()
        if answer is None:
            raise Unavailable("the decoder ended the stream")
        return answer

    def _receive(self) -> pb.InteractResponse | None:
        """The next answer, None at the stream's end. gRPC has no deadline for a part of a stream: hence the timer."""
        alarm = Timer(self._timeout, self._give_up)
        alarm.start()
        try:
            answer: pb.InteractResponse | None = next(self._call, None)
        except grpc.RpcError as problem:
            if self._late:
                raise DeadlinePassed("the decoder") from problem
            raise error_of(problem, "the decoder") from problem
        finally:
            alarm.cancel()
        return answer

    def _give_up(self) -> None:
        self._late = True
        self._call.cancel()
