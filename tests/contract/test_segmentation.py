import asyncio
import io

import grpc
import grpc.aio
import numpy as np
import pytest
from contract.conftest import SIZE, Service
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2
from PIL import Image
from samserve.client import Click, Client, Prompt
from samserve.core.errors import Overloaded, Unavailable
from samserve.core.image_id import image_id
from samserve.core.rle import decode_rle
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import types_pb2 as types
from samserve.wire.status import DETAILS_KEY

ID = "ab" * 32
CLICK = pb.Prompt(points=[types.Point(x=100, y=50)])


def request(*prompts: pb.Prompt, image_id: str = ID, **fields: object) -> pb.PredictRequest:
    return pb.PredictRequest(ref=types.ImageRef(image_id=image_id), prompts=prompts, **fields)


async def refused(
    service: Service, bad: pb.PredictRequest, detail: Message, **call: object
) -> grpc.StatusCode:
    """Return the code of a refused call and fill in `detail`; a valid call after it must work."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.stub.Predict(bad, **call)
    packed = dict(caught.value.trailing_metadata())[DETAILS_KEY]
    status = status_pb2.Status.FromString(packed)
    assert status.details[0].Unpack(detail), f"not a {type(detail).__name__}: {status}"
    assert status.message == caught.value.details()
    service.embeddings.failure = None
    service.embeddings.known.add(ID)
    assert (await service.stub.Predict(request(CLICK))).results
    return caught.value.code()


async def test_three_masks_come_best_first_in_the_requested_formats(service: Service) -> None:
    service.embeddings.known.add(ID)
    formats = [pb.MASK_FORMAT_RLE, pb.MASK_FORMAT_PNG, pb.MASK_FORMAT_POLYGONS, pb.MASK_FORMAT_BITS]
    output = pb.OutputOptions(formats=formats, low_res_logits=True)
    answer = await service.stub.Predict(request(CLICK, output=output))
    masks = answer.results[0].masks
    assert len(masks) == 3
    scores = [m.predicted_iou * m.stability_score for m in masks]
    assert scores == sorted(scores, reverse=True)
    assert (answer.image.width, answer.image.height) == (SIZE.width, SIZE.height)
    for mask in masks:
        decoded = decode_rle(mask.rle.counts, mask.rle.height, mask.rle.width)
        assert decoded.sum() == mask.area
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(mask.png))), decoded)
        assert mask.bits == np.packbits(decoded, axis=1).tobytes()
        assert (
            sum(enclosed(p.exterior) + sum(map(enclosed, p.holes)) for p in mask.polygons)
            == -mask.area
        )
        assert len(mask.low_res_logits) == 2 * 256 * 256


def enclosed(ring: pb.Ring) -> float:
    """The ring's area in pixels, positive if it is clockwise on the screen."""
    x, y = np.array(ring.xy).reshape(-1, 2).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


async def test_a_tolerance_makes_polygons_of_fewer_corners(service: Service) -> None:
    service.embeddings.known.add(ID)
    corners = []
    for tolerance in (0, 1, 30):
        output = pb.OutputOptions(formats=[pb.MASK_FORMAT_POLYGONS], polygon_tolerance=tolerance)
        mask = (await service.stub.Predict(request(CLICK, output=output))).results[0].masks[0]
        assert not mask.HasField("rle")
        corners.append(
            sum(len(p.exterior.xy) + sum(len(hole.xy) for hole in p.holes) for p in mask.polygons)
        )
    assert corners[0] >= corners[1] > corners[2] > 0  # specks of few pixels keep theirs


async def test_no_more_masks_are_sent_than_asked_for(service: Service) -> None:
    service.embeddings.known.add(ID)
    single = pb.Prompt(points=CLICK.points, multimask=False)
    every = (await service.stub.Predict(request(CLICK, single))).results
    for most, numbers in ((1, [1, 1]), (2, [2, 1]), (7, [3, 1])):
        answer = await service.stub.Predict(
            request(CLICK, single, output=pb.OutputOptions(max_masks=most))
        )
        assert [len(result.masks) for result in answer.results] == numbers
        assert answer.results[0].masks[0] == every[0].masks[0]


async def test_the_client_reads_every_format(service: Service) -> None:
    formats = ["rle", "png", "polygons", "bits"]
    with Client(service.address, service.address) as client:
        prompts = [Prompt([Click(100, 50)])]
        answer = await asyncio.to_thread(
            client.predict, b"the image", prompts, formats=formats, max_masks=1
        )
    (mask,) = answer.masks
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(mask.png))), mask.array())
    assert mask.bits == np.packbits(mask.array(), axis=1).tobytes()
    assert all(
        p.exterior.shape[1] == 2 and (p.exterior <= (SIZE.width, SIZE.height)).all()
        for p in mask.polygons
    )


async def test_only_requested_formats_are_sent(service: Service) -> None:
    service.embeddings.known.add(ID)
    mask = (await service.stub.Predict(request(CLICK))).results[0].masks[0]
    assert mask.rle.counts
    assert not mask.png
    assert not mask.low_res_logits


async def test_prompts_of_mixed_kinds_are_answered_each_as_if_alone(service: Service) -> None:
    service.embeddings.known.add(ID)
    first = await service.stub.Predict(request(CLICK, output=pb.OutputOptions(low_res_logits=True)))
    prompts = [
        CLICK,
        pb.Prompt(
            points=[
                types.Point(x=9, y=9),
                types.Point(x=200, y=90, label=types.POINT_LABEL_BACKGROUND),
            ]
        ),
        pb.Prompt(box=types.Box(x0=10, y0=10, x1=90, y1=70), multimask=False),
        pb.Prompt(points=[types.Point(x=50, y=50)], box=types.Box(x0=10, y0=10, x1=90, y1=70)),
        pb.Prompt(
            points=[types.Point(x=9, y=9)], mask_input=first.results[0].masks[0].low_res_logits
        ),
        pb.Prompt(mask_input=first.results[0].masks[0].low_res_logits),
    ]
    together = await service.stub.Predict(request(*prompts))
    assert [len(result.masks) for result in together.results] == [3, 3, 1, 3, 3, 3]
    for prompt, result in zip(prompts, together.results, strict=True):
        alone = (await service.stub.Predict(request(prompt))).results[0]
        for one, other in zip(alone.masks, result.masks, strict=True):
            assert one.predicted_iou == pytest.approx(other.predicted_iou, abs=1e-5)
            assert abs(one.area - other.area) <= 2


async def test_a_new_image_needs_its_bytes(service: Service) -> None:
    info = details.ErrorInfo()
    unknown = request(CLICK, image_id="cd" * 32)
    assert await refused(service, unknown, info) is grpc.StatusCode.NOT_FOUND
    assert info.reason == "EMBEDDING_NOT_CACHED"
    answer = await service.stub.Predict(pb.PredictRequest(data=b"the image", prompts=[CLICK]))
    assert answer.cache == types.CACHE_STATUS_MISS
    stages = [time.stage for time in answer.timings]
    assert stages == ["hash", "embedding", "embedding.encode", "queue", "decode", "masks"]
    again = await service.stub.Predict(pb.PredictRequest(data=b"the image", prompts=[CLICK]))
    assert again.cache == types.CACHE_STATUS_HIT


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (request(), "prompts"),
        (request(pb.Prompt()), "prompts[0]"),
        (request(CLICK, pb.Prompt(points=[types.Point(x=321, y=5)])), "prompts[1].points"),
        (request(pb.Prompt(points=[types.Point(x=float("nan"), y=5)])), "prompts[0].points"),
        (request(pb.Prompt(box=types.Box(x0=9, y0=9, x1=9, y1=30))), "prompts[0].box"),
        (request(pb.Prompt(mask_input=b"\0" * 10)), "prompts[0].mask_input"),
        (request(CLICK, image_id="not a hash"), "image_id"),
        (pb.PredictRequest(prompts=[CLICK]), "image_id"),
        (request(CLICK, output=pb.OutputOptions(polygon_tolerance=-1)), "output.polygon_tolerance"),
        (
            request(CLICK, output=pb.OutputOptions(polygon_tolerance=float("nan"))),
            "output.polygon_tolerance",
        ),
        (
            request(CLICK, output=pb.OutputOptions(polygon_tolerance=float("inf"))),
            "output.polygon_tolerance",
        ),
    ],
)
async def test_bad_requests_are_refused_by_field(
    service: Service, bad: pb.PredictRequest, field: str
) -> None:
    service.embeddings.known.add(ID)
    detail = details.BadRequest()
    assert await refused(service, bad, detail) is grpc.StatusCode.INVALID_ARGUMENT
    assert detail.field_violations[0].field == field


async def test_an_unknown_model_is_refused_with_the_known_ones(service: Service) -> None:
    info = details.ErrorInfo()
    assert await refused(service, request(CLICK, model="sam9"), info) is grpc.StatusCode.NOT_FOUND
    assert (info.reason, info.metadata["known"]) == ("MODEL_NOT_FOUND", "nano")


async def test_a_reference_of_another_version_is_refused_with_both(service: Service) -> None:
    info = details.ErrorInfo()
    old = pb.PredictRequest(
        ref=types.ImageRef(image_id=ID, model_version="nano-old"), prompts=[CLICK]
    )
    assert await refused(service, old, info) is grpc.StatusCode.FAILED_PRECONDITION
    assert dict(info.metadata) == {"asked": "nano-old", "served": service.model_version}


async def test_bytes_with_another_hash_than_expected_are_refused(service: Service) -> None:
    bad = details.BadRequest()
    wrong = pb.PredictRequest(
        data=b"the image", prompts=[CLICK], expected_image_id=image_id(b"another")
    )
    assert await refused(service, wrong, bad) is grpc.StatusCode.INVALID_ARGUMENT
    assert bad.field_violations[0].field == "expected_image_id"
    right = pb.PredictRequest(
        data=b"the image", prompts=[CLICK], expected_image_id=image_id(b"the image")
    )
    assert (await service.stub.Predict(right)).results


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (Unavailable("the encoder is away", 2), grpc.StatusCode.UNAVAILABLE),
        (Overloaded("the queue", 2), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
async def test_errors_of_other_services_come_with_a_time_to_retry(
    service: Service, failure: Exception, code: grpc.StatusCode
) -> None:
    service.embeddings.failure = failure
    retry = details.RetryInfo()
    assert await refused(service, request(CLICK), retry) is code
    assert retry.retry_delay.seconds == 2


async def test_a_bug_is_internal_and_reveals_only_an_incident_id(service: Service) -> None:
    service.embeddings.failure = RuntimeError("secret")
    info = details.ErrorInfo()
    assert await refused(service, request(CLICK), info) is grpc.StatusCode.INTERNAL
    assert info.metadata["incident"]
    assert "secret" not in str(info)


async def test_a_tenants_name_is_checked(service: Service) -> None:
    detail = details.BadRequest()
    code = await refused(service, request(CLICK), detail, metadata=(("samserve-tenant", "a:b"),))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert detail.field_violations[0].field == "samserve-tenant"
