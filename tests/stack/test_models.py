"""Two models in one stack: nano, and a twin of it whose weights are a little different."""

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
import triton_api
from onnx import numpy_helper
from redis import Redis
from samserve.bundles.bundle import ENCODER, FACTS, WEIGHTS, load_bundle, write_facts
from samserve.bundles.names import SHIPPED
from samserve.bundles.store import Store
from samserve.client import Click, Client
from samserve.codec.packed import HEADER_BYTES
from samserve.core.errors import ModelNotFound, Unavailable
from samserve.core.image_id import image_id
from samserve.decoder.prompt import Prompt
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.threads import Threads
from samserve.local.stack import Stack, StackOptions
from samserve.local.state import save_state
from samserve.v1 import embedding_pb2, embedding_pb2_grpc, segmentation_pb2, segmentation_pb2_grpc
from samserve.v1 import types_pb2 as types

Images = Callable[..., bytes]
CLICK = [Click(100, 80)]
SCALED = "mask_decoder.iou_prediction_head.proj_out.weight"  # in the decoder


def make_twin(folder: Path) -> None:
    """Write nano under another name, with scaled weights.

    These are the largest weights of its encoder, and the last ones of its decoder's scores.
    """
    shutil.copytree(SHIPPED / "nano", folder)
    encoder = onnx.load(folder / ENCODER)
    weights = max(encoder.graph.initializer, key=lambda each: np.prod(each.dims))
    scaled = numpy_helper.to_array(weights) * np.float16(1.25)
    weights.CopyFrom(numpy_helper.from_array(scaled, weights.name))
    onnx.save(encoder, folder / ENCODER)
    data = bytearray((folder / WEIGHTS).read_bytes())
    length = int.from_bytes(data[:8], "little")
    begin, end = (
        8 + length + at for at in json.loads(data[8 : 8 + length])[SCALED]["data_offsets"]
    )
    np.frombuffer(memoryview(data)[begin:end], np.float16)[:] *= np.float16(0.5)
    (folder / WEIGHTS).write_bytes(data)
    facts = json.loads((folder / FACTS).read_text())
    del facts["model_version"]
    write_facts(folder, {**facts, "name": "twin"})


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    bundles = tmp_path_factory.mktemp("bundles")
    make_twin(bundles / "twin")
    options = StackOptions(
        models=("nano", "twin"), bundles=bundles, cache_coding="exact", triton_control=True
    )
    stack = Stack(options, tmp_path_factory.mktemp("two-models"))
    stack.start()
    yield stack
    stack.stop()


@pytest.fixture
def clients(stack: Stack) -> Iterator[dict[str, Client]]:
    """Clients by the model name they send."""
    at = stack.addresses
    with ExitStack() as exit_stack:
        yield {
            name: exit_stack.enter_context(Client(at.decoder, at.embedding, model=name))
            for name in ("", "nano", "twin", "sam9")
        }


@pytest.fixture
def redis(stack: Stack) -> Iterator[Redis]:
    with Redis.from_url(stack.addresses.redis) as redis:
        yield redis


def test_each_request_is_answered_by_the_model_it_names(
    stack: Stack, clients: dict[str, Client], new_photo: Images
) -> None:
    image = new_photo()
    before = {name: triton_api.encoded(stack, name) for name in ("nano", "twin")}
    nano, twin = clients["nano"].segment(image, CLICK), clients["twin"].segment(image, CLICK)
    default = clients[""].segment(image, CLICK)
    assert (nano.cache.name, twin.cache.name, default.cache.name) == ("MISS", "MISS", "HIT")
    assert [(triton_api.encoded(stack, name) - count).images for name, count in before.items()] == [
        1,
        1,
    ]
    assert (
        nano.model_version == default.model_version == load_bundle(SHIPPED / "nano").model_version
    )
    assert twin.model_version == load_bundle(stack.options.bundles / "twin").model_version
    assert _seen(nano) == _seen(default)
    assert _seen(nano) != _seen(twin)
    with clients["twin"].interact(image) as shown:
        assert (shown.image.cache.name, _seen(shown.step(CLICK))) == ("HIT", _seen(twin))


@pytest.mark.parametrize(("model", "other"), [("nano", "twin"), ("twin", "nano")])
def test_a_model_s_embeddings_are_decoded_by_its_own_decoder(
    stack: Stack, clients: dict[str, Client], new_photo: Images, model: str, other: str
) -> None:
    image = new_photo()
    answer = clients[model].segment(image, CLICK)
    embedding = clients[model].embedding(image)
    click = Prompt(
        np.array([[100, 80]], np.float32), np.ones(1, np.float32), None, None, multimask=True
    )
    scores = {}
    for name in (model, other):
        decoder = MaskDecoder(Store(stack.options.bundles).load(name), Threads(1))
        scores[name] = decoder.decode(decoder.prepare(embedding), [click])[0].predicted_iou
    assert np.allclose([mask.predicted_iou for mask in answer.masks], scores[model], atol=1e-4)
    assert not np.allclose(scores[model], scores[other], atol=1e-2)


def test_an_image_embedded_by_one_model_is_a_miss_for_the_other(
    clients: dict[str, Client], redis: Redis, new_photo: Images
) -> None:
    image = new_photo()
    first, second = clients["nano"].embed(image), clients["twin"].embed(image)
    assert (first.cache.name, second.cache.name) == ("MISS", "MISS")
    assert (clients["nano"].embed(image).cache.name, clients["twin"].embed(image).cache.name) == (
        "HIT",
        "HIT",
    )
    name = image_id(image)
    keys = {f"samserve:public:{answer.model_version}:{name}".encode() for answer in (first, second)}
    assert set(redis.keys(f"*{name}*")) == keys
    both = [clients[model].embedding(image).tensors["embedding"] for model in ("nano", "twin")]
    assert not np.array_equal(*both)


def test_a_decoder_without_an_embedding_of_its_model_asks_for_the_bytes(
    stack: Stack, clients: dict[str, Client], new_photo: Images
) -> None:
    image = new_photo()
    clients["nano"].segment(image, CLICK)  # in Redis and ready in the decoder
    with (
        grpc.insecure_channel(stack.addresses.decoder) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        _predict(channel, "twin", types.ImageRef(image_id=image_id(image)))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_reference_of_one_model_with_the_name_of_the_other_is_refused(
    stack: Stack, clients: dict[str, Client], new_photo: Images
) -> None:
    image = new_photo()
    versions = {
        model: clients[model].segment(image, CLICK).model_version for model in ("nano", "twin")
    }
    at = stack.addresses
    with (
        grpc.insecure_channel(at.decoder) as decoder,
        grpc.insecure_channel(at.embedding) as embedding,
    ):
        for model, other in (("nano", "twin"), ("twin", "nano"), ("", "twin")):
            reference = types.ImageRef(image_id=image_id(image), model_version=versions[other])
            for ask in (_predict, _get_embedding):
                with pytest.raises(grpc.RpcError, match=versions[other]) as caught:
                    ask(decoder if ask is _predict else embedding, model, reference)
                assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        own = types.ImageRef(image_id=image_id(image), model_version=versions["twin"])
        assert _predict(decoder, "twin", own).image.model_version == versions["twin"]


def test_an_unknown_model_is_refused_and_the_available_ones_are_listed(
    clients: dict[str, Client], new_photo: Images
) -> None:
    image = new_photo()
    for call in (clients["sam9"].embed, lambda data: clients["sam9"].segment(data, CLICK)):
        with pytest.raises(ModelNotFound) as caught:
            call(image)
        assert caught.value.known == ["nano", "twin"]


def test_an_unloaded_model_affects_neither_cached_images_nor_the_other_model(
    stack: Stack, clients: dict[str, Client], new_photo: Images
) -> None:
    known, new = new_photo(), new_photo()
    clients["twin"].embed(known)
    triton_api.unload(stack, "twin")
    try:
        assert clients["twin"].embed(known).cache.name == "HIT"
        assert clients["nano"].embed(new).cache.name == "MISS"
        at = stack.addresses
        with (
            Client(at.decoder, at.embedding, model="twin", timeout=2) as hasty,
            pytest.raises(Unavailable, match="twin"),
        ):
            hasty.embed(new)
    finally:
        triton_api.load(stack, "twin")
    assert clients["twin"].embed(new).cache.name == "MISS"


def test_an_exact_cache_gives_a_decoder_the_encoders_tensors(
    clients: dict[str, Client], redis: Redis, new_photo: Images
) -> None:
    image = new_photo()
    answer = clients["nano"].embed(image)
    (key,) = redis.keys(f"*{image_id(image)}")
    entry = redis.get(key)
    assert isinstance(entry, bytes)
    assert b'"f2"' in entry[:HEADER_BYTES]
    assert len(entry) == HEADER_BYTES + 2 * 256 * 64 * 64
    embedded = clients["nano"].embedding(image)
    assert (embedded.model_version, answer.cache.name) == (answer.model_version, "MISS")
    assert embedded.tensors["embedding"].tobytes() == entry[HEADER_BYTES:]


def test_metrics_are_labelled_by_model(
    stack: Stack, clients: dict[str, Client], new_photo: Images
) -> None:
    image = new_photo()
    for model in ("nano", "twin"):
        clients[model].segment(image, CLICK)
    with pytest.raises(ModelNotFound):
        clients["sam9"].embed(image)
    at = stack.addresses
    embedding, decoder = (
        _metrics(address) for address in (at.embedding_metrics, at.decoder_metrics)
    )
    for model in ("nano", "twin"):
        assert f'samserve_embedded_total{{cache="miss",model="{model}"}}' in embedding
        assert f'samserve_decoded_total{{model="{model}"}}' in decoder
    assert "sam9" not in embedding + decoder


def test_the_command_line_selects_a_model_and_status_lists_them(
    stack: Stack, tmp_path: Path, coins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    save_state(stack.addresses)

    def run(*words: object) -> dict[str, object]:
        command = [sys.executable, "-m", "samserve.cli.main", *map(str, words), "--json"]
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=True, env=os.environ
        )
        output: dict[str, object] = json.loads(result.stdout.splitlines()[-1])
        return output

    assert run("status")["models"] == ["nano", "twin"]
    assert run("embed", coins, "--model", "twin")["embedded"] == 1
    answers = [
        run("segment", coins, "--point", "213,193", "--model", model) for model in ("nano", "twin")
    ]
    assert [answer["cache"] for answer in answers] == ["MISS", "HIT"]
    assert [str(answer["model_version"]).split("-")[0] for answer in answers] == ["nano", "twin"]


def _seen(answer: object) -> list[tuple[float, bytes]]:
    return [(mask.predicted_iou, mask.array().tobytes()) for mask in answer.masks]  # type: ignore[attr-defined]


def _predict(
    channel: grpc.Channel, model: str, reference: types.ImageRef
) -> segmentation_pb2.PredictResponse:
    prompts = [segmentation_pb2.Prompt(points=[types.Point(x=100, y=80)])]
    request = segmentation_pb2.PredictRequest(ref=reference, model=model, prompts=prompts)
    return segmentation_pb2_grpc.SegmentationServiceStub(channel).Predict(request, timeout=30)


def _get_embedding(channel: grpc.Channel, model: str, reference: types.ImageRef) -> None:
    request = embedding_pb2.GetEmbeddingRequest(image=reference, model=model)
    list(embedding_pb2_grpc.EmbeddingServiceStub(channel).GetEmbedding(request, timeout=30))


def _metrics(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        return str(answer.read().decode())
