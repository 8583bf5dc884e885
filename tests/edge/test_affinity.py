"""Clicks find the decoder that has their image, through the edge and from the client alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import grpc
import pytest
from edge.conftest import Edge, Start
from edge.fakes_behind import CAP, Decoder
from samserve.client import AsyncClient, CachedImage, Click, Client
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import segmentation_pb2_grpc as rpc
from samserve.v1 import types_pb2 as types
from stacks import until

IMAGES = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(200)]
CLICK = [Click(1, 1)]
Placed = dict[str, str]  # image -> address of the decoder


def places(target: str, decoders: Sequence[Decoder], **options: str) -> Placed:
    """Where each image's click goes. One call at a time, so nobody is busy."""
    for each in decoders:
        each.images.clear()
    with Client(target, target, timeout=CAP, **options) as client:
        for image in IMAGES:
            client.segment(CachedImage(image), CLICK)
    return {image: each.address for each in decoders for image in each.images}


def listed(decoders: Sequence[Decoder]) -> str:
    return ",".join(each.address for each in decoders)


@pytest.fixture(params=["edge", "client"])
def front(request: pytest.FixtureRequest, start: Start) -> Front:
    return Front(request.param, start)


class Front:
    """The edge, or the client's own policy: a target before some decoders."""

    def __init__(self, kind: str, start: Start) -> None:
        self.kind = kind
        self._start = start

    def before(self, decoders: Sequence[Decoder]) -> str:
        if self.kind == "client":
            return f"ipv4:{listed(decoders)}"
        return self._start(DECODER_URL=listed(decoders)).address


def test_an_image_stays_and_all_decoders_have_their_share(
    front: Front, decoders: list[Decoder]
) -> None:
    target = front.before(decoders)
    placed = places(target, decoders)
    assert places(target, decoders) == placed
    counts = [list(placed.values()).count(each.address) for each in decoders]
    assert min(counts) > 0.5 * len(IMAGES) / len(decoders)


def test_another_tenants_image_is_placed_on_its_own(front: Front, decoders: list[Decoder]) -> None:
    target = front.before(decoders)
    mine, others = places(target, decoders), places(target, decoders, tenant="other")
    same = sum(mine[image] == others[image] for image in IMAGES)
    assert same < 0.5 * len(IMAGES)


def test_a_decoder_that_dies_moves_its_own_images_only(
    front: Front, decoders: list[Decoder]
) -> None:
    dying = Decoder()
    some = [*decoders[:3], dying]
    target = front.before(some)
    before = places(target, some)
    dying.close()
    after = places(target, decoders[:3])
    stayed = [after[image] == place for image, place in before.items() if place != dying.address]
    assert sum(stayed) >= 0.9 * len(stayed)
    assert len(after) == len(IMAGES)


def test_a_decoder_that_joins_takes_its_share_only(front: Front, decoders: list[Decoder]) -> None:
    before = places(front.before(decoders[:3]), decoders[:3])
    after = places(front.before(decoders), decoders)
    moved = sum(before[image] != after[image] for image in IMAGES)
    assert moved <= (1 / 4 + 0.1) * len(IMAGES)


def test_a_stream_goes_where_the_clicks_on_its_image_go(
    front: Front, decoders: list[Decoder]
) -> None:
    target = front.before(decoders)
    placed = places(target, decoders)
    for each in decoders:
        each.streams.clear()
    with Client(target, target, timeout=CAP) as client:
        for image in IMAGES[:40]:
            with client.interact(CachedImage(image)) as stream:
                stream.step(CLICK)
    streams = {image: each.address for each in decoders for image in each.streams}
    assert streams == {image: placed[image] for image in IMAGES[:40]}


async def test_the_client_for_asyncio_places_clicks_alike(decoders: list[Decoder]) -> None:
    target = f"ipv4:{listed(decoders)}"
    placed = places(target, decoders)
    for each in decoders:
        each.images.clear()
    async with AsyncClient(target, target, timeout=CAP) as client:
        for image in IMAGES:
            await client.segment(CachedImage(image), CLICK)
        async with client.interact(CachedImage(IMAGES[0])) as stream:
            await stream.step(CLICK)
    assert {image: each.address for each in decoders for image in each.images} == placed


def test_a_decoder_that_stands_still_costs_one_more_attempt(
    front: Front, decoders: list[Decoder]
) -> None:
    target = front.before(decoders)
    placed = places(target, decoders)
    still = decoders[0]
    image = next(image for image, place in placed.items() if place == still.address)
    still.running.clear()
    try:
        with Client(target, target, timeout=CAP) as client:
            client.segment(CachedImage(image), CLICK)
        answered = [each for each in decoders[1:] if each.images.count(image)]
        assert len(answered) == 1
    finally:
        still.running.set()


def test_calls_that_name_no_image_are_spread(edge: Edge, decoders: list[Decoder]) -> None:
    for each in decoders:
        each.images.clear()
    with grpc.insecure_channel(edge.address) as channel:
        stub = rpc.SegmentationServiceStub(channel)
        request = pb.PredictRequest(ref=types.ImageRef(image_id=IMAGES[0]))
        for _ in range(80):
            stub.Predict(request, timeout=CAP)
    assert all(len(each.images) > 5 for each in decoders)


def test_a_busy_decoder_passes_clicks_on(front: Front, decoders: list[Decoder]) -> None:
    target = front.before(decoders)
    places(target, decoders)
    for each in decoders:
        each.images.clear()
        each.running.clear()
    try:
        with grpc.insecure_channel(target) if front.kind == "edge" else Client(target) as some:
            method = (
                rpc.SegmentationServiceStub(some).Predict
                if isinstance(some, grpc.Channel)
                else some._predict
            )
            request = pb.PredictRequest(ref=types.ImageRef(image_id=IMAGES[0]))
            metadata = (("samserve-tenant", "public"), ("samserve-image", IMAGES[0]))
            calls = [method.future(request, timeout=CAP, metadata=metadata) for _ in range(12)]
            until(lambda: sum(len(each.images) for each in decoders) >= 12)
            assert 3 <= max(len(each.images) for each in decoders) <= 7  # twice the mean, at most
            for each in decoders:
                each.running.set()
            assert all(call.result() for call in calls)
    finally:
        for each in decoders:
            each.running.set()
