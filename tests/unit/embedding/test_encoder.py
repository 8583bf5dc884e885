"""What the encoder reads from Triton, over real gRPC."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc.aio
import numpy as np
import pytest
from fake_triton import FakeTriton
from prometheus_client import REGISTRY
from samserve.core.errors import ModelNotFound, Unavailable
from samserve.core.geometry import Frame, Size
from samserve.core.image import FramedImage
from samserve.embedding import encoder as encoder_module
from samserve.embedding.admission import Priority
from samserve.embedding.encoder import EncoderSpec, TritonEncoder
from tritonclient.grpc import service_pb2_grpc as rpc

NANO = EncoderSpec("nano", "nano-1", Frame(1024), ("embedding",), "fp32", "onnxruntime")


@dataclass
class Served:
    triton: FakeTriton
    server: grpc.aio.Server
    encoder: TritonEncoder


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    triton, server = FakeTriton(), grpc.aio.server()
    rpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    encoder = TritonEncoder(address, timeout=5, default="nano")
    yield Served(triton, server, encoder)
    await encoder.close()
    await server.stop(None)


@pytest.fixture
def asked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "SPEC_AGE", -1.0)


async def test_each_model_is_known_by_its_name_and_an_empty_one_means_the_default(
    served: Served,
) -> None:
    assert await served.encoder.spec("nano") == await served.encoder.spec("") == NANO
    assert (await served.encoder.spec("twin")).model_version == "twin-1"
    assert served.triton.asked == 1


@pytest.mark.parametrize("model", ["sam9", "foreign"])
async def test_a_model_that_samserve_did_not_write_is_unknown(served: Served, model: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        await served.encoder.spec(model)
    assert (caught.value.model, caught.value.known) == (model, ["nano", "twin"])


@pytest.mark.usefixtures("asked_each_time")
async def test_a_model_changed_or_added_is_noticed(served: Served) -> None:
    assert (await served.encoder.spec("nano")).model_version == "nano-1"
    served.triton.version = "2"
    served.triton.ready["new"] = True
    assert (await served.encoder.spec("nano")).model_version == "nano-2"
    assert (await served.encoder.spec("new")).model_version == "new-2"


@pytest.mark.usefixtures("asked_each_time")
async def test_an_unloaded_model_keeps_its_last_known_facts(served: Served) -> None:
    await served.encoder.spec("nano")
    served.triton.ready["nano"] = False
    assert await served.encoder.spec("nano") == NANO


async def test_a_model_not_loaded_since_the_start_is_unavailable_and_the_others_are_not(
    served: Served,
) -> None:
    served.triton.ready["nano"] = False
    with pytest.raises(Unavailable, match="not loaded model 'nano'"):
        await served.encoder.spec("")
    assert (await served.encoder.spec("twin")).model_version == "twin-1"


@pytest.mark.usefixtures("asked_each_time")
async def test_while_triton_is_away_the_last_answer_stands(served: Served) -> None:
    await served.encoder.spec("nano")
    await served.server.stop(None)
    assert await served.encoder.spec("nano") == NANO


async def test_without_any_answer_from_triton_callers_are_told_to_retry(served: Served) -> None:
    await served.server.stop(None)
    with pytest.raises(Unavailable, match="Triton"):
        await served.encoder.spec("nano")


@pytest.mark.usefixtures("asked_each_time")
async def test_metrics_show_loaded_and_unloaded_models(served: Served) -> None:
    def said(model: str, version: str) -> float | None:
        labels = {"model": model, "version": version, "variant": "fp32", "backend": "onnxruntime"}
        return REGISTRY.get_sample_value("samserve_model_info", labels)

    served.triton.version = "told"
    await served.encoder.spec("nano")
    assert (said("nano", "nano-told"), said("twin", "twin-told")) == (1, 1)
    served.triton.version, served.triton.ready["twin"] = "told anew", False
    await served.encoder.spec("nano")
    assert (
        said("nano", "nano-told"),
        said("nano", "nano-told anew"),
        said("twin", "twin-told"),
    ) == (0, 1, 0)


async def test_a_run_ends_although_its_callers_have_left(served: Served) -> None:
    image = FramedImage(np.zeros((8, 8, 3), np.uint8), valid=Size(8, 8), size=Size(8, 8))
    served.triton.seconds = 0.5
    tensors = await served.encoder.encode(NANO, image, Priority.INTERACTIVE, seconds=0.05)
    assert tensors["embedding"].shape == (256, 64, 64)
    assert served.triton.in_queue == 50_000
