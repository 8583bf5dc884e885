"""Find over a real gRPC server, with a fake head."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial

import grpc
import grpc.aio
import numpy as np
import pytest
from contract.calls import until
from contract.conftest import SIZE, Path, Service
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2
from prometheus_client import REGISTRY
from samserve.client import AsyncClient, Client, Concept, Example
from samserve.core.cache_status import CacheStatus
from samserve.core.concept import Concept as ConceptValue
from samserve.core.concept import check_examples_inside
from samserve.core.detections import Detections
from samserve.core.embedding import EmbeddingHeader
from samserve.core.errors import InvalidInput, NoConcepts, SamserveError, Unavailable
from samserve.core.limits import MAX_SEARCHES, MAX_SEARCHES_WAITING
from samserve.core.rle import decode_rle
from samserve.decoder.concepts.head import ConceptAnswer, ConceptQuery, FoundConcept
from samserve.infra.stages import StageClock
from samserve.v1 import embedding_pb2, embedding_pb2_grpc
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import types_pb2 as types
from samserve.wire.status import DETAILS_KEY

ID = "ab" * 32
SIDE = 256  # of nano's logits
SEARCHES = "samserve_requests_in_progress"
GOLDEN = (
    "0a040a0269641a016d22250a04636f696e12180a140d0000803f15000000401d0"
    "0004040250000804010011d0000803e2a0220023201783d0000003f450000403f"
)


def square(x: int, y: int, side: int) -> np.ndarray:
    """Logits of a square of so many cells."""
    logits = np.full((SIDE, SIDE), -4, np.float16)
    logits[y : y + side, x : x + side] = 4
    return logits


COINS = Detections(
    presence=0.9,
    scores=np.array([0.9, 0.6, 0.2], np.float32),
    boxes=np.array([[10, 10, 60, 60], [100, 20, 150, 70], [20, 90, 70, 140]], np.float32),
    logits=np.stack([square(10, 10, 40), square(80, 16, 40), square(16, 72, 40)]),
)
TABLE = Detections(
    presence=0.1,
    scores=np.array([0.7], np.float32),
    boxes=np.array([[100, 20, 150, 72]], np.float32),
    logits=square(80, 16, 41)[None],
    cut_off=True,
)


@dataclass
class FakeHead:
    """Knows two phrases; refuses phrases of more than three words."""

    known: dict[str, Detections] = field(default_factory=lambda: {"coin": COINS, "table": TABLE})
    threshold: float = 0.5
    asked: list[ConceptQuery] = field(default_factory=list)
    failure: Exception | None = None
    go: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.go.set()

    def check(self, concept: ConceptValue, field: str) -> None:
        if len(concept.text.split()) > 3:
            raise InvalidInput(f"{field}.text", f"{field}.text: too many words")

    async def find(self, query: ConceptQuery, clock: StageClock) -> ConceptAnswer:
        self.asked.append(query)
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        version = query.model.model_version
        results: dict[int, FoundConcept | SamserveError] = {}
        for number, concept in query.concepts.items():
            try:
                check_examples_inside(concept, SIZE, f"concepts[{number}]")
                results[number] = FoundConcept(self.known[concept.text], CacheStatus.HIT)
            except InvalidInput as problem:
                results[number] = problem
        return ConceptAnswer(EmbeddingHeader(version, SIZE), CacheStatus.HIT, results)


@pytest.fixture
def head() -> FakeHead:
    return FakeHead()


@pytest.fixture
def heads(head: FakeHead, request: pytest.FixtureRequest) -> dict[str, FakeHead]:
    return {} if "alone" in request.keywords else {"nano": head}


def finding(*concepts: str | types.Concept, **fields: object) -> pb.FindRequest:
    given = [types.Concept(text=each) if isinstance(each, str) else each for each in concepts]
    return pb.FindRequest(ref=types.ImageRef(image_id=ID), concepts=given, **fields)


async def refused(service: Service, bad: pb.FindRequest, detail: Message) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.stub.Find(bad)
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())[DETAILS_KEY])
    assert status.details[0].Unpack(detail), status
    return caught.value.code()


def areas(result: pb.ConceptResult) -> list[int]:
    return [each.mask.area for each in result.instances]


@pytest.mark.alone
async def test_a_model_without_concepts_says_so(service: Service) -> None:
    info = details.ErrorInfo()
    assert await refused(service, finding("coin"), info) is grpc.StatusCode.FAILED_PRECONDITION
    assert (info.reason, info.metadata["model"]) == ("NO_CONCEPTS", "nano")
    assert service.embeddings.looked_for == 0
    (model,) = (await service.stub.ListModels(pb.ListModelsRequest())).models
    assert not model.concepts


@pytest.mark.alone
async def test_the_client_raises_that_the_model_knows_no_concepts(service: Service) -> None:
    told = "'nano' answers points, boxes and masks, but no text"
    with (
        Client(service.address, service.address) as client,
        pytest.raises(NoConcepts, match=told),
    ):
        await asyncio.to_thread(client.find, b"the image", "coin")


async def test_the_embedding_service_says_so_too(path: Path) -> None:
    async with grpc.aio.insecure_channel(path.embedding) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        asked = embedding_pb2.FindConceptsRequest(
            ref=types.ImageRef(image_id=ID),
            concepts=[embedding_pb2.TokenizedConcept(tokens=[1, 5, 2])],
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in stub.FindConcepts(asked):
                pass
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_each_concept_gets_its_instances_best_first(service: Service) -> None:
    answer = await service.stub.Find(finding("coin", "table"))
    coin, table = answer.results
    assert [round(each.score, 3) for each in coin.instances] == [0.9, 0.6]
    assert (round(coin.presence, 3), coin.cut_off, coin.cache) == (
        0.9,
        False,
        types.CACHE_STATUS_HIT,
    )
    assert [round(each.score, 3) for each in table.instances] == [0.7]
    assert table.cut_off  # the head's last instance passed, so there may be more
    assert (answer.image.width, answer.image.height) == (SIZE.width, SIZE.height)
    assert coin.instances[0].box == types.Box(x0=10, y0=10, x1=60, y1=60)
    mask = coin.instances[0].mask
    assert decode_rle(mask.rle.counts, mask.rle.height, mask.rle.width).sum() == mask.area > 0
    assert mask.predicted_iou == pytest.approx(0.9)
    assert service.embeddings.looked_for == 0  # the head knows the image's size
    (model,) = (await service.stub.ListModels(pb.ListModelsRequest())).models
    assert model.concepts


async def test_a_concepts_threshold_goes_before_the_calls(service: Service) -> None:
    own = types.Concept(text="coin", threshold=0.1)
    answer = await service.stub.Find(finding(own, "coin", threshold=0.65))
    assert [len(result.instances) for result in answer.results] == [3, 1]
    none = await service.stub.Find(finding(types.Concept(text="coin", threshold=0.0)))
    assert len(none.results[0].instances) == 3


async def test_of_overlapping_masks_the_better_one_stays(service: Service) -> None:
    answer = await service.stub.Find(finding("coin", "table", max_overlap=0.9))
    coin, table = answer.results
    assert [round(each.score, 3) for each in coin.instances] == [0.9]  # 0.6 is the table's place
    assert len(table.instances) == 1
    apart = await service.stub.Find(finding("coin", "table", max_overlap=0.99))
    assert [len(result.instances) for result in apart.results] == [2, 1]


async def test_max_masks_cuts_off(service: Service) -> None:
    output = pb.OutputOptions(max_masks=1)
    (coin,) = (await service.stub.Find(finding("coin", output=output))).results
    assert (len(coin.instances), coin.cut_off) == (1, True)


async def test_an_instances_logits_refine_it(service: Service) -> None:
    service.embeddings.known.add(ID)
    output = pb.OutputOptions(low_res_logits=True)
    (coin,) = (await service.stub.Find(finding("coin", output=output))).results
    prompt = pb.Prompt(
        points=[types.Point(x=30, y=30)], mask_input=coin.instances[0].mask.low_res_logits
    )
    request = pb.PredictRequest(ref=types.ImageRef(image_id=ID), prompts=[prompt])
    assert (await service.stub.Predict(request)).results[0].masks


async def test_a_bad_concept_fails_alone(service: Service, head: FakeHead) -> None:
    outside = types.Example(box=types.Box(x0=0, y0=0, x1=9999, y1=10))
    answer = await service.stub.Find(
        finding(
            "coin",
            "a phrase of many words",
            "",
            types.Concept(text="coin", examples=[outside]),
            types.Concept(text="coin", threshold=float("nan")),
        )
    )
    good, *bad = answer.results
    assert len(good.instances) == 2
    fields = []
    for result in bad:
        detail = details.BadRequest()
        assert result.error.details[0].Unpack(detail)
        fields.append(detail.field_violations[0].field)
    assert fields == [
        "concepts[1].text",
        "concepts[2].text",
        "concepts[3].examples[0].box",
        "concepts[4].threshold",
    ]
    assert set(head.asked[0].concepts) == {0, 3}


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (finding(), "concepts"),
        (finding(*["coin"] * 17), "concepts"),
        (finding(""), "concepts[0].text"),
        (finding("x" * 257), "concepts[0].text"),
        (finding("coin", threshold=1.5), "threshold"),
        (finding("coin", max_overlap=float("nan")), "max_overlap"),
        (
            finding("coin", output=pb.OutputOptions(polygon_tolerance=-1)),
            "output.polygon_tolerance",
        ),
        (
            finding(types.Concept(examples=[types.Example(box=types.Box(x1=1, y1=1))] * 17)),
            "concepts[0].examples",
        ),
        (
            finding(types.Concept(examples=[types.Example(box=types.Box(x0=2, x1=1, y1=1))])),
            "concepts[0].examples[0].box",
        ),
    ],
)
async def test_an_invalid_request_never_reaches_the_head(
    service: Service, head: FakeHead, bad: pb.FindRequest, field: str
) -> None:
    detail = details.BadRequest()
    assert await refused(service, bad, detail) is grpc.StatusCode.INVALID_ARGUMENT
    assert detail.field_violations[0].field == field
    assert head.asked == []


async def test_too_large_an_answer_is_refused(service: Service, head: FakeHead) -> None:
    many = np.tile(square(0, 0, 9)[None], (50, 1, 1))
    head.known["coin"] = Detections(
        presence=1, scores=np.ones(50, np.float32), boxes=np.ones((50, 4), np.float32), logits=many
    )
    detail = details.BadRequest()
    bad = finding(*["coin"] * 16, output=pb.OutputOptions(low_res_logits=True))
    assert await refused(service, bad, detail) is grpc.StatusCode.INVALID_ARGUMENT
    assert detail.field_violations[0].field == "output.formats"


async def test_an_error_of_the_head_is_the_calls(service: Service, head: FakeHead) -> None:
    head.failure = Unavailable("the head is away", 2)
    retry = details.RetryInfo()
    assert await refused(service, finding("coin"), retry) is grpc.StatusCode.UNAVAILABLE
    old = finding("coin")
    old.ref.model_version = "nano-old"
    assert await refused(service, old, details.ErrorInfo()) is grpc.StatusCode.FAILED_PRECONDITION


async def test_more_searches_than_may_wait_are_overload(service: Service, head: FakeHead) -> None:
    head.go.clear()
    most = MAX_SEARCHES + MAX_SEARCHES_WAITING
    calls = [service.stub.Find(finding("coin")) for _ in range(most)]
    in_progress = partial(REGISTRY.get_sample_value, SEARCHES, {"method": "Find"})
    await until(lambda: in_progress() == most and len(head.asked) == MAX_SEARCHES)
    retry = details.RetryInfo()
    assert await refused(service, finding("coin"), retry) is grpc.StatusCode.RESOURCE_EXHAUSTED
    head.go.set()
    assert all([(await call).results for call in calls])
    assert len(head.asked) == most


async def test_boxes_without_masks_are_drawn_by_the_models_decoder(
    service: Service, head: FakeHead
) -> None:
    service.embeddings.known.add(ID)
    head.known["coin"] = Detections(COINS.presence, COINS.scores, COINS.boxes)
    (coin,) = (await service.stub.Find(finding("coin"))).results
    request = pb.PredictRequest(
        ref=types.ImageRef(image_id=ID),
        prompts=[
            pb.Prompt(box=types.Box(x0=x0, y0=y0, x1=x1, y1=y1), multimask=False)
            for x0, y0, x1, y1 in COINS.boxes[:2]
        ],
    )
    masks = [result.masks[0] for result in (await service.stub.Predict(request)).results]
    assert areas(coin) == pytest.approx([mask.area for mask in masks], abs=2)


async def test_both_clients_read_the_answer(service: Service) -> None:
    concepts = ["coin", Concept("table", [Example((1, 1, 9, 9), negative=True)], threshold=0.6)]
    with Client(service.address, service.address) as client:
        found = await asyncio.to_thread(client.find, b"the image", concepts)
    async with AsyncClient(service.address, service.address) as client:
        again = await client.find(b"the image", concepts)
    assert [len(result.instances) for result in found.results] == [2, 1]
    assert found.results[0].instances[0].mask.array().sum() > 0
    assert again.results[1].presence == found.results[1].presence
    assert found.as_json()["results"][0]["instances"][0]["score"] == pytest.approx(0.9)


def test_the_numbers_of_the_fields_stay() -> None:
    example = types.Example(box=types.Box(x0=1, y0=2, x1=3, y1=4), negative=True)
    request = finding(
        types.Concept(text="coin", examples=[example], threshold=0.25),
        model="m",
        output=pb.OutputOptions(max_masks=2),
        expected_image_id="x",
        threshold=0.5,
        max_overlap=0.75,
    )
    request.ref.image_id = "id"
    assert request.SerializeToString(deterministic=True).hex() == GOLDEN
