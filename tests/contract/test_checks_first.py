"""What can be checked without the image is checked before the image is looked for."""

import grpc
import grpc.aio
import numpy as np
import pytest
from contract.calls import prompt
from contract.conftest import Service
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import types_pb2 as types
from samserve.wire.status import DETAILS_KEY

NAN, INFINITY = float("nan"), float("inf")
CLICK = prompt([(100, 50, True)])


def click(x: float) -> pb.Prompt:
    return prompt([(x, 50, True)])


def box(x0: float, x1: float) -> pb.Prompt:
    return pb.Prompt(box=types.Box(x0=x0, y0=10, x1=x1, y1=70))


def mask(value: float, side: int = 256) -> pb.Prompt:
    return pb.Prompt(mask_input=np.full((side, side), value, "<f2").tobytes())


@pytest.mark.parametrize(
    ("prompts", "field"),
    [
        ([], "prompts"),
        ([pb.Prompt()], "prompts[0]"),
        ([CLICK, click(NAN)], "prompts[1].points"),
        ([click(INFINITY)], "prompts[0].points"),
        ([box(NAN, 90)], "prompts[0].box"),
        ([box(90, 10)], "prompts[0].box"),
        ([box(10, 10)], "prompts[0].box"),
        ([mask(NAN)], "prompts[0].mask_input"),
        ([mask(1, side=128)], "prompts[0].mask_input"),
    ],
)
async def test_an_invalid_prompt_with_a_new_image_costs_no_encode(
    service: Service, prompts: list[pb.Prompt], field: str
) -> None:
    request = pb.PredictRequest(data=b"a new image", prompts=prompts)
    assert await refused(service, request) == field
    assert service.embeddings.looked_for == 0


async def test_invalid_options_with_a_new_image_cost_no_encode(service: Service) -> None:
    output = pb.OutputOptions(polygon_tolerance=-1)
    request = pb.PredictRequest(data=b"a new image", prompts=[CLICK], output=output)
    assert await refused(service, request) == "output.polygon_tolerance"
    assert service.embeddings.looked_for == 0


async def test_whether_a_prompt_is_inside_is_checked_on_the_image(service: Service) -> None:
    request = pb.PredictRequest(data=b"a new image", prompts=[click(321)])
    assert await refused(service, request) == "prompts[0].points"
    assert service.embeddings.looked_for == 1


async def refused(service: Service, request: pb.PredictRequest) -> str:
    """Return the field that INVALID_ARGUMENT names."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.stub.Predict(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    packed = dict(caught.value.trailing_metadata())[DETAILS_KEY]
    bad = details.BadRequest()
    assert status_pb2.Status.FromString(packed).details[0].Unpack(bad)
    return bad.field_violations[0].field
