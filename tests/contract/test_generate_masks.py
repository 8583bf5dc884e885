"""GenerateMasks over a real gRPC server and the real decoder of nano, on an embedding of noise."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import skimage.data
from contract.conftest import SIZE, Path, Service
from contract.test_segmentation import CLICK, ID, request
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2
from PIL import Image
from samserve.client import (
    AsyncClient,
    CachedImage,
    Client,
    Everything,
    GridOptions,
    Polygon,
    Sureness,
)
from samserve.core.errors import InvalidInput
from samserve.core.image_id import image_id
from samserve.core.rle import decode_rle, encode_rle
from samserve.core.runs import runs_of
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import segmentation_pb2_grpc as rpc
from samserve.v1 import types_pb2 as types
from samserve.wire.status import DETAILS_KEY

LOW = {"pred_iou_thresh": 0.05, "stability_score_thresh": 0.05, "points_per_batch": 4}


def sweep(known_as: str = ID, **fields: object) -> pb.GenerateMasksRequest:
    options = pb.SweepOptions(**{"points_per_side": 4, **LOW, **fields.pop("options", {})})
    return pb.GenerateMasksRequest(ref=types.ImageRef(image_id=known_as), options=options, **fields)


async def answers(
    service: Service, asked: pb.GenerateMasksRequest
) -> list[pb.GenerateMasksResponse]:
    service.embeddings.known.add(ID)
    return [answer async for answer in service.stub.GenerateMasks(asked)]


def records(messages: list[pb.GenerateMasksResponse]) -> list[pb.GenerateMasksResponse.Record]:
    return [each.record for each in messages if each.WhichOneof("message") == "record"]


def pixels(record: pb.GenerateMasksResponse.Record) -> np.ndarray:
    rle = record.mask.rle
    return decode_rle(rle.counts, rle.height, rle.width)


async def rest(call: Any) -> list[pb.GenerateMasksResponse]:
    """Read a call to its end."""
    messages = []
    while (message := await call.read()) is not grpc.aio.EOF:
        messages.append(message)
    return messages


async def refused_field(service: Service, asked: pb.GenerateMasksRequest) -> str:
    before = service.embeddings.looked_for
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answers(service, asked)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert service.embeddings.looked_for == before
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())[DETAILS_KEY])
    detail = details.BadRequest()
    assert status.details[0].Unpack(detail)
    return str(detail.field_violations[0].field)


async def test_a_start_progress_records_and_an_end_are_sent(service: Service) -> None:
    messages = await answers(service, sweep())
    kinds = [each.WhichOneof("message") for each in messages]
    assert kinds == sorted(kinds, key=["started", "progress", "record", "finished"].index)

    started, finished = messages[0].started, messages[-1].finished
    assert (started.image.width, started.image.height) == (SIZE.width, SIZE.height)
    assert (started.crops, started.points) == (1, 16)
    assert [each.progress.points for each in messages if each.HasField("progress")] == [
        *(4, 8, 12, 16),
        16,
    ]
    found = records(messages)
    assert 0 < len(found) == finished.masks
    assert {"embedding", "points", "keep", "masks"} <= {time.stage for time in finished.timings}


async def test_masks_differ_and_agree_with_their_areas_and_boxes(service: Service) -> None:
    found = records(await answers(service, sweep()))
    assert len({each.mask.rle.counts for each in found}) == len(found)
    for each in found:
        mask = pixels(each)
        rows, columns = np.nonzero(mask)
        box = each.mask.bbox
        assert mask.sum() == each.mask.area > 0
        assert (box.x0, box.x1) == (columns.min(), columns.max() + 1)
        assert (box.y0, box.y1) == (rows.min(), rows.max() + 1)
        assert each.mask.predicted_iou > LOW["pred_iou_thresh"]
        assert 0 < each.point.x < SIZE.width and 0 < each.point.y < SIZE.height
        assert each.crop_box == types.Box(x1=SIZE.width, y1=SIZE.height)
    ious = [each.mask.predicted_iou for each in found]
    assert ious == sorted(ious, reverse=True)


async def test_a_mask_is_the_one_that_predict_gives_at_its_point(service: Service) -> None:
    first = records(await answers(service, sweep()))[0]
    prompt = pb.Prompt(points=[first.point])
    (answer,) = (await service.stub.Predict(request(prompt))).results
    same = next(mask for mask in answer.masks if mask.candidate == first.mask.candidate)
    assert same.rle == first.mask.rle
    assert same.predicted_iou == pytest.approx(first.mask.predicted_iou, abs=1e-4)


async def test_the_number_and_the_bytes_of_masks_are_bounded(service: Service) -> None:
    few = await answers(service, sweep(output=pb.OutputOptions(max_masks=1)))
    assert len(records(few)) == 1 < few[-1].finished.masks


@pytest.mark.parametrize("area", [30, 300])
async def test_small_regions_are_removed(service: Service, area: int) -> None:
    import cv2

    found = records(await answers(service, sweep(options={"min_mask_region_area": area})))
    assert found
    for each in found:
        mask = pixels(each).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        assert len(stats) == 2 or stats[1:, -1].min() >= area


async def test_each_mask_can_be_refined_or_be_the_only_one(service: Service) -> None:
    await answers(service, sweep(options={"multimask_output": False}))
    assert len(service.decoder.decoded) == 16
    found = records(await answers(service, sweep(options={"use_m2m": True})))
    assert found
    refined = [prompt for prompt in service.decoder.decoded if prompt.mask_input is not None]
    assert len(refined) == 3 * 16 and not any(prompt.multimask for prompt in refined)


@pytest.mark.parametrize(
    "fields, field",
    [
        ({"options": {"points_per_side": 65}}, "options.points_per_side"),
        ({"options": {"points_per_side": 0}}, "options.points_per_side"),
        ({"options": {"crop_n_layers": 4_000_000_000}}, "options.crop_n_layers"),
        ({"options": {"pred_iou_thresh": float("nan")}}, "options.pred_iou_thresh"),
        ({"options": {"point_grids": [pb.SweepOptions.Grid(xy=[0.5])]}}, "point_grids[0].xy"),
        ({"options": {"point_grids": [pb.SweepOptions.Grid()] * 4}}, "options.point_grids"),
        ({"output": pb.OutputOptions(low_res_logits=True)}, "output.low_res_logits"),
        ({"output": pb.OutputOptions(formats=[99])}, "output.formats"),
        ({"propose": pb.ProposalOptions(sure_pred_iou_thresh=2)}, "sure_pred_iou_thresh"),
        ({"propose": pb.ProposalOptions(accepted=[pb.Region()])}, "propose.accepted[0]"),
        ({"propose": pb.ProposalOptions(accepted=[pb.Region()] * 1001)}, "propose.accepted"),
        ({"propose": pb.ProposalOptions(), "options": {"use_m2m": True}}, "options.use_m2m"),
    ],
)
async def test_invalid_requests_are_refused_before_the_image_is_looked_for(
    service: Service, fields: dict, field: str
) -> None:
    assert field in await refused_field(service, sweep(**fields))


@pytest.mark.parametrize(
    "region, text",
    [
        (pb.Region(rle=types.Rle(height=5, width=5, counts=b"0")), "5 x 5 pixels; the image has"),
        (
            pb.Region(rle=types.Rle(height=SIZE.height, width=SIZE.width, counts=b"\xff")),
            "truncated",
        ),
    ],
)
async def test_a_damaged_accepted_region_is_refused_by_name(
    service: Service, region: pb.Region, text: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=text) as caught:
        await answers(service, sweep(propose=pb.ProposalOptions(accepted=[region])))
    assert "propose.accepted[0]" in caught.value.details()


async def test_an_unknown_image_is_not_found(service: Service) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answers(service, sweep(known_as="cd" * 32))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_click_is_answered_while_a_sweep_waits(service: Service) -> None:
    service.embeddings.known.add(ID)
    call = service.stub.GenerateMasks(sweep(options={"points_per_side": 16}))
    assert (await call.read()).HasField("started")
    answer = await service.stub.Predict(request(CLICK))
    assert answer.results[0].masks
    assert len(service.decoder.decoded) < 256
    call.cancel()


async def test_more_sweeps_than_allowed_are_refused_as_overload(service: Service) -> None:
    service.decoder.go.clear()
    service.embeddings.known.add(ID)
    call = service.stub.GenerateMasks(sweep())
    await call.read()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answers(service, sweep())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    service.decoder.go.set()
    assert len(await rest(call)) > 1
    assert await answers(service, sweep())  # there is room again


async def test_a_sweep_stops_when_its_caller_leaves(service: Service) -> None:
    service.decoder.go.clear()
    service.embeddings.known.add(ID)
    call = service.stub.GenerateMasks(sweep(options={"points_per_side": 16}))
    await call.read()
    await asyncio.to_thread(service.decoder.busy.wait, 60)
    call.cancel()
    await asyncio.sleep(0.1)
    begun = len(service.decoder.decoded)
    service.decoder.go.set()
    assert await answers(service, sweep())
    assert len(service.decoder.decoded) <= begun + 2 + 16  # a sweep holds two threads


async def test_a_sweep_ends_when_its_replica_shuts_down(service: Service) -> None:
    service.embeddings.known.add(ID)
    call = service.stub.GenerateMasks(sweep(options={"points_per_side": 16}))
    await call.read()
    service.draining.set()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rest(call)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_proposals_leave_out_what_is_accepted(service: Service) -> None:
    everything = records(await answers(service, sweep(propose=pb.ProposalOptions())))
    assert everything
    covers = [each for each in everything if pixels(each)[int(each.point.y), int(each.point.x)]]
    largest = max(covers, key=lambda record: record.mask.area)
    accepted = pb.Region(rle=largest.mask.rle)

    asked = sweep(propose=pb.ProposalOptions(accepted=[accepted]))
    left = await answers(service, asked)
    taken = pixels(largest)
    assert left[0].started.points < 16
    for record in records(left):
        mask = pixels(record)
        assert not taken[int(record.point.y), int(record.point.x)]
        assert (mask & taken).sum() <= 0.5 * mask.sum()


async def test_proposals_are_sure_or_come_with_a_point_to_ask(service: Service) -> None:
    all_sure = pb.ProposalOptions(
        sure_pred_iou_thresh=0, sure_stability_score_thresh=0, sure_disagreement_thresh=1
    )
    found = records(await answers(service, sweep(propose=all_sure)))
    assert found and all(record.sure and not record.HasField("ask") for record in found)

    unsure = records(await answers(service, sweep(propose=pb.ProposalOptions())))
    assert len(unsure) == len(found)
    for record in unsure:
        assert not record.sure and record.HasField("ask")
        assert 0 <= record.disagreement <= 1
        assert 0 <= record.ask.x <= SIZE.width and 0 <= record.ask.y <= SIZE.height


async def test_an_accepted_polygon_covers_the_pixels_inside(service: Service) -> None:
    whole = [0, 0, 0, SIZE.height, SIZE.width, SIZE.height, SIZE.width, 0]
    region = pb.Region(polygons=pb.Polygons(polygons=[pb.Polygon(exterior=pb.Ring(xy=whole))]))
    messages = await answers(service, sweep(propose=pb.ProposalOptions(accepted=[region])))
    assert messages[0].started.points == 0
    assert not records(messages)

    full = encode_rle(runs_of(np.ones((SIZE.height, SIZE.width), bool)))
    rle = types.Rle(height=SIZE.height, width=SIZE.width, counts=full)
    asked = sweep(propose=pb.ProposalOptions(accepted=[pb.Region(rle=rle)]))
    assert (await answers(service, asked))[0].started.points == 0


async def test_crops_are_embedded_once_as_images(path: Path) -> None:
    data = cat()
    options = pb.SweepOptions(points_per_side=2, crop_n_layers=1, pred_iou_thresh=0)
    async with grpc.aio.insecure_channel(path.decoder) as channel:
        stub = rpc.SegmentationServiceStub(channel)
        by_bytes = pb.GenerateMasksRequest(data=data, options=options)
        first = [each async for each in stub.GenerateMasks(by_bytes)]
        assert (first[0].started.crops, first[0].started.points) == (5, 20)
        assert len(path.images) == 1  # crops do not displace images
        assert path.triton.inferred == 5

        by_id = pb.GenerateMasksRequest(
            ref=types.ImageRef(image_id=image_id(data)), options=options
        )
        again = [each async for each in stub.GenerateMasks(by_id)]
        assert path.triton.inferred == 5
        assert [each.record for each in again] == [each.record for each in first]


async def test_crops_that_are_not_cached_need_the_images_bytes(path: Path) -> None:
    data = cat(quality=50)
    with Client(path.decoder, path.embedding) as client:
        await asyncio.to_thread(client.embed, data)
    options = pb.SweepOptions(points_per_side=2, crop_n_layers=1)
    asked = pb.GenerateMasksRequest(ref=types.ImageRef(image_id=image_id(data)), options=options)
    async with grpc.aio.insecure_channel(path.decoder) as channel:
        stub = rpc.SegmentationServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match=image_id(data)) as caught:
            [each async for each in stub.GenerateMasks(asked)]
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def cat(quality: int = 90) -> bytes:
    out = io.BytesIO()
    Image.fromarray(skimage.data.chelsea()).save(out, "JPEG", quality=quality)
    return out.getvalue()


async def test_both_clients_return_all_records_and_report_progress(service: Service) -> None:
    data = b"an image that only its hash is read of"
    options = GridOptions(
        points_per_side=4, points_per_batch=8, pred_iou_thresh=0.05, stability_score_thresh=0.05
    )
    progress: list[tuple[int, int]] = []

    def use_client() -> tuple[Everything, Everything]:
        with Client(service.address, service.address) as client:
            found = client.generate_masks(
                data, options, on_progress=lambda *done: progress.append(done)
            )
            accepted = [found.records[0].mask, found.records[1].mask.array()]
            return found, client.propose(data, accepted, options, sureness=Sureness(0, 0, 1))

    found, left = await asyncio.to_thread(use_client)
    assert progress == [(0, 16), (8, 16), (16, 16), (16, 16)]
    assert found.image_id == image_id(data) and found.size == SIZE
    assert len(found.records) == found.found > 1
    assert found.records[0].crop_box == (0, 0, SIZE.width, SIZE.height)
    assert all(record.sure for record in left.records)

    async with AsyncClient(service.address, service.address) as client:
        again = await client.generate_masks(CachedImage(image_id(data)), options, max_masks=2)
        assert again.records == found.records[:2] and again.found == found.found
        with pytest.raises(InvalidInput, match="points_per_side"):
            await client.generate_masks(data, GridOptions(points_per_side=999))
        whole = Polygon(np.array([[0, 0], [0, 999], [999, 999], [999, 0]], np.float32), [])
        assert not (await client.propose(data, [[whole]], options)).records
