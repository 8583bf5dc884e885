"""What the contract tests share: requests, an opened stream, and waits for events."""

import asyncio
import time
from collections.abc import Callable

import grpc
import grpc.aio
import pytest
from contract.conftest import Service
from google.protobuf.message import Message
from google.rpc import status_pb2
from prometheus_client import REGISTRY
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import types_pb2 as types
from samserve.wire.status import DETAILS_KEY

CAP = 60.0  # seconds after which a wait is given up: far beyond what a busy machine needs
ID = "ab" * 32
FIRST = [(100, 50, True)]
SECOND = [*FIRST, (200, 90, False)]
LOGITS = pb.OutputOptions(low_res_logits=True)
OUTSIDE = [(321, 5, True)]


def prompt(clicks: list[tuple[float, float, bool]], **fields: object) -> pb.Prompt:
    on, beside = types.POINT_LABEL_FOREGROUND, types.POINT_LABEL_BACKGROUND
    return pb.Prompt(
        points=[types.Point(x=x, y=y, label=on if hit else beside) for x, y, hit in clicks],
        **fields,
    )


def opening(**fields: object) -> pb.InteractRequest:
    given = fields or {"ref": types.ImageRef(image_id=ID), "output": LOGITS}
    return pb.InteractRequest(open=pb.InteractRequest.Open(**given))


def step(number: int, asked: pb.Prompt, reset: bool = False) -> pb.InteractRequest:
    return pb.InteractRequest(step=pb.InteractRequest.Step(id=number, prompt=asked, reset=reset))


class Stream:
    """One Interact call, opened."""

    def __init__(self, service: Service) -> None:
        self.call = service.stub.Interact(timeout=CAP)

    async def open(self) -> pb.InteractResponse.Opened:
        await self.call.write(opening())
        return (await self.call.read()).opened

    async def ask(self, *steps: pb.InteractRequest) -> list[pb.InteractResponse.Answer]:
        for one in steps:
            await self.call.write(one)
        return await self.read(len(steps))

    async def read(self, answers: int) -> list[pb.InteractResponse.Answer]:
        return [(await self.call.read()).answer for _ in range(answers)]


async def predicted(service: Service, asked: pb.Prompt) -> list[pb.Mask]:
    request = pb.PredictRequest(ref=types.ImageRef(image_id=ID), prompts=[asked], output=LOGITS)
    return list((await service.stub.Predict(request)).results[0].masks)


async def refused(call: grpc.aio.StreamStreamCall, detail: Message) -> grpc.StatusCode:
    """The code the call ends with, `detail` filled in."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while await call.read() is not grpc.aio.EOF:
            pass
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())[DETAILS_KEY])
    assert status.details[0].Unpack(detail), status
    return caught.value.code()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for an event. The cap only stops a test that would wait forever."""
    end = time.monotonic() + CAP
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


def ended(code: str) -> float:
    return (
        REGISTRY.get_sample_value("samserve_requests_total", {"method": "Interact", "code": code})
        or 0.0
    )
