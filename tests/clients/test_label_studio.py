"""A real Label Studio against the running stack: what an annotator does, and what is stored."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clients import label_studio
from clients.label_studio import TOKEN, LabelStudio
from clients.recorder import Recorder, recording
from clients.venvs import client_venv
from PIL import Image
from pydantic import SecretStr
from samserve.client import Box, CachedImage, Click, Client
from samserve.core.errors import EmbeddingNotCached, InvalidInput
from samserve.core.image_id import image_id
from samserve.gateway.label_studio import check
from samserve.gateway.label_studio.studio import ImageSource
from samserve.gateway.label_studio.studio import LabelStudio as GatewayClient
from samserve.infra.settings import GatewaySettings
from samserve.local.process import free_port
from samserve.local.stack import Stack, StackOptions
from skimage import data
from stacks import CAP, Photos, new_photo, started, until  # noqa: F401  # a fixture

PAYLOADS = Path(__file__).parents[2] / "build" / "clients" / "label_studio"

OUTPUTS = {
    "brush": '<BrushLabels name="brush" toName="image"><Label value="Coin"/></BrushLabels>',
    "bitmask": '<BitmaskLabels name="mask" toName="image"><Label value="Coin"/></BitmaskLabels>',
    "polygon": '<PolygonLabels name="poly" toName="image"><Label value="Coin"/></PolygonLabels>',
}
CONFIG = """<View><Image name="image" value="$image" zoom="true"/>{output}
<KeyPointLabels name="kp" toName="image" smart="true"><Label value="Coin"/></KeyPointLabels>
<RectangleLabels name="rect" toName="image" smart="true"><Label value="Coin"/></RectangleLabels>
</View>"""

WIDTH, HEIGHT = 384, 303
CLICK = (212.0, 193.0)
BOX = (186.0, 168.0, 240.0, 222.0)


@pytest.fixture(scope="module")
def coins() -> bytes:
    out = io.BytesIO()
    Image.fromarray(data.coins()).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    with label_studio.running(free_port(), tmp_path_factory.mktemp("studio")) as running:
        yield running


@pytest.fixture(scope="module")
def stack(studio: LabelStudio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMSERVE_LABEL_STUDIO_URL", studio.url)
        patch.setenv("SAMSERVE_LABEL_STUDIO_TOKEN", TOKEN)
        for setting in ("ENCODE_TIMEOUT_S", "EMBED_TIMEOUT_S", "PATIENCE_S", "FETCH_S"):
            patch.setenv(f"SAMSERVE_{setting}", str(CAP))
        with started(StackOptions(), tmp_path_factory.mktemp("stack")) as stack:
            yield stack


@pytest.fixture(scope="module")
def recorder(stack: Stack) -> Iterator[Recorder]:
    with recording(stack.addresses.gateway) as recorder:
        yield recorder


class Work:
    """A project with the coins, connected to the gateway."""

    def __init__(self, studio: LabelStudio, recorder: Recorder, coins: bytes) -> None:
        self.studio = studio
        self.project = studio.create_project(CONFIG.format(output=OUTPUTS["brush"]))
        self.task = studio.add_image(self.project, coins)
        self.backend = studio.connect(self.project, f"{recorder.url}/label-studio")

    def use(self, output: str) -> None:
        self.studio.configure(self.project, CONFIG.format(output=OUTPUTS[output]))

    def interact(self, *regions: dict[str, Any]) -> list[dict[str, Any]]:
        answer = self.studio.interact(self.backend["id"], self.task, *regions)
        found: list[dict[str, Any]] = answer["result"]
        return found


@pytest.fixture(scope="module")
def work(studio: LabelStudio, recorder: Recorder, coins: bytes) -> Work:
    return Work(studio, recorder, coins)


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[Client]:
    with Client(stack.addresses.decoder, stack.addresses.embedding, timeout=CAP) as client:
        yield client


def region(tag: str, kind: str, **value: Any) -> dict[str, Any]:
    """A smart region as the editor sends it."""
    return {
        "id": "fBWv1t0S2L",
        "from_name": tag,
        "to_name": "image",
        "type": kind,
        "origin": "manual",
        "is_positive": True,
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": {**value, kind: ["Coin"]},
    }


def keypoint(x: float, y: float, *, positive: bool = True) -> dict[str, Any]:
    made = region("kp", "keypointlabels", x=100 * x / WIDTH, y=100 * y / HEIGHT, width=0.26)
    return {**made, "is_positive": positive}


def rectangle(x0: float, y0: float, x1: float, y1: float) -> dict[str, Any]:
    return region(
        "rect",
        "rectanglelabels",
        x=100 * x0 / WIDTH,
        y=100 * y0 / HEIGHT,
        width=100 * (x1 - x0) / WIDTH,
        height=100 * (y1 - y0) / HEIGHT,
        rotation=0,
    )


def exported_png(work: Work, regions: list[dict[str, Any]]) -> np.ndarray:
    """What Label Studio itself decodes and exports after an annotator's submit."""
    annotation = work.studio.annotate(work.task, regions)
    try:
        return np.asarray(Image.open(io.BytesIO(work.studio.export(work.project, "BRUSH_TO_PNG"))))
    finally:
        work.studio.delete_annotation(annotation)


def keep(name: str, payload: Any) -> None:
    """Write a request of the real client, for the replayed test."""
    PAYLOADS.mkdir(parents=True, exist_ok=True)
    (PAYLOADS / f"{name}.json").write_text(json.dumps(payload) + "\n")


def test_the_backend_is_connected(work: Work, recorder: Recorder) -> None:
    assert (work.backend["state"], work.backend["error_message"]) == ("CO", None)
    assert work.backend["model_version"].startswith("samserve ")
    setup = recorder.of("/label-studio/setup")[0]
    assert set(setup.json) >= {"project", "schema", "hostname", "access_token"}
    keep("setup", setup.json)


def test_a_click_is_exported_as_the_mask_bit_for_bit(
    work: Work, recorder: Recorder, client: Client, coins: bytes
) -> None:
    work.use("brush")
    found = work.interact(keypoint(*CLICK))
    keep("predict_keypoint", recorder.of("/label-studio/predict")[-1].json)
    (brush,) = found
    assert (brush["type"], brush["value"]["brushlabels"]) == ("brushlabels", ["Coin"])

    mask = client.segment(coins, [Click(*CLICK)]).masks[0].array()
    assert np.array_equal(exported_png(work, found), mask * np.uint8(255))


def test_a_negative_click_refines_and_a_rectangle_segments(
    work: Work, recorder: Recorder, client: Client, coins: bytes
) -> None:
    work.use("brush")
    background = (212.0, 215.0)
    found = work.interact(keypoint(*CLICK), keypoint(*background, positive=False))
    keep("predict_negative", recorder.of("/label-studio/predict")[-1].json)
    clicks = [Click(*CLICK), Click(*background, on=False)]
    mask = client.segment(coins, clicks).masks[0].array()
    assert np.array_equal(exported_png(work, found), mask * np.uint8(255))

    found = work.interact(rectangle(*BOX))
    keep("predict_rectangle", recorder.of("/label-studio/predict")[-1].json)
    mask = client.segment(coins, box=Box(*BOX)).masks[0].array()
    exported = exported_png(work, found) > 0
    assert (exported & mask).sum() / (exported | mask).sum() >= 0.999


def test_several_rectangles_are_several_regions(work: Work) -> None:
    work.use("brush")
    found = work.interact(rectangle(*BOX), rectangle(120, 30, 180, 90))
    assert [each["type"] for each in found] == ["brushlabels"] * 2
    assert len({each["id"] for each in found}) == 2


def test_polygons_are_stored_and_exported_to_coco(work: Work, client: Client, coins: bytes) -> None:
    work.use("polygon")
    found = work.interact(keypoint(*CLICK))
    assert {each["type"] for each in found} == {"polygonlabels"}
    annotation = work.studio.annotate(work.task, found)
    coco = json.loads(zipped(work.studio.export(work.project, "COCO"), "result.json"))
    work.studio.delete_annotation(annotation)

    area = client.segment(coins, [Click(*CLICK)]).masks[0].area
    assert len(coco["annotations"]) == len(found)
    assert sum(each["area"] for each in coco["annotations"]) == pytest.approx(area, rel=0.1)


def test_a_bitmask_is_accepted_by_label_studios_own_check_and_stored(
    work: Work, client: Client, coins: bytes
) -> None:
    work.use("bitmask")
    (found,) = work.interact(keypoint(*CLICK))
    assert problems(CONFIG.format(output=OUTPUTS["bitmask"]), [found]) == []
    assert problems(CONFIG.format(output=OUTPUTS["bitmask"]), [{**found, "type": "bitmask"}])

    annotation = work.studio.annotate(work.task, [found])
    (task,) = json.loads(work.studio.export(work.project, "JSON"))
    work.studio.delete_annotation(annotation)
    (stored,) = task["annotations"][0]["result"]
    png = base64.b64decode(stored["value"]["imageDataURL"].partition(",")[2])
    alpha = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))[..., 3]
    mask = client.segment(coins, [Click(*CLICK)]).masks[0].array()
    assert np.array_equal(alpha, mask * np.uint8(255))


def test_a_batch_of_five_tasks_is_answered(work: Work, recorder: Recorder, coins: bytes) -> None:
    work.use("brush")
    project = work.studio.create_project(CONFIG.format(output=OUTPUTS["brush"]))
    for _ in range(5):
        work.studio.add_image(project, coins)
    work.studio.connect(project, f"{recorder.url}/label-studio")
    before = len(recorder.of("/label-studio/predict"))
    work.studio.predict_all(project)

    # All tasks in one request, then each alone.
    until(lambda: len(recorder.of("/label-studio/predict")) >= before + 6)
    calls = recorder.of("/label-studio/predict")[before:]
    keep("predict_batch", calls[0].json)
    assert [call.status for call in calls] == [200] * len(calls)
    assert [len(call.json["tasks"]) for call in calls] == [5, 1, 1, 1, 1, 1]
    assert all(call.json["params"]["context"] is None for call in calls)
    for call in calls[1:]:
        (result,) = json.loads(call.answer)["results"]
        assert result["result"]  # coins; how many depends on the thresholds


def test_the_next_images_are_embedded_before_they_are_opened(
    work: Work,
    recorder: Recorder,
    client: Client,
    new_photo: Photos,  # noqa: F811
) -> None:
    project = work.studio.create_project(CONFIG.format(output=OUTPUTS["brush"]))
    images = [new_photo() for _ in range(3)]
    first, *_ = [work.studio.add_image(project, image) for image in images]
    backend = work.studio.connect(project, f"{recorder.url}/label-studio")
    work.studio.interact(backend["id"], first, keypoint(*CLICK))
    until(lambda: all(is_embedded(client, image) for image in images))


def test_a_hundred_stored_masks_do_not_reach_the_parser(work: Work, recorder: Recorder) -> None:
    work.use("brush")
    (found,) = work.interact(keypoint(*CLICK))
    stored = [{**found, "id": f"region{index}"} for index in range(100)]
    annotation = work.studio.annotate(work.task, stored)
    assert len(work.interact(keypoint(*CLICK))) == 1
    call = recorder.of("/label-studio/predict")[-1]
    work.studio.delete_annotation(annotation)
    assert len(call.json["tasks"][0]["annotations"][0]["result"]) == 100
    assert call.status == 200


def test_an_image_is_fetched_with_either_kind_of_token(
    work: Work, studio: LabelStudio, coins: bytes
) -> None:
    task = next(task for task in studio.tasks(work.project) if task["id"] == work.task)
    source = ImageSource(task["data"]["image"], work.task, "image")

    async def fetch(token: str) -> bytes:
        settings = GatewaySettings(
            label_studio_url=studio.url, label_studio_token=SecretStr(token), fetch_s=CAP
        )
        client = GatewayClient(settings)
        try:
            return await client.image(source)
        finally:
            await client.close()

    for token in (TOKEN, studio.create_personal_token()):
        assert asyncio.run(fetch(token)) == coins
    for token in ("", "head.body.signature", "0" * 40):
        with pytest.raises(InvalidInput, match="HTTP 401"):
            asyncio.run(fetch(token))


def test_the_check_finds_a_task_and_predicts_it(
    work: Work, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("HEALTH_S", "SETUP_S", "PREDICT_S"):
        monkeypatch.setattr(check, limit, CAP)

    async def steps() -> list[check.Step]:
        url = f"{recorder.url}/label-studio"
        return [step async for step in check.steps(url, work.studio.url, TOKEN)]

    states = {step.name: step.state for step in asyncio.run(steps())}
    assert states.pop("address") == check.NOTE
    assert states == dict.fromkeys(("health", "setup", "tasks", "image", "predict"), check.OK)


def test_events_are_accepted(recorder: Recorder) -> None:
    until(lambda: recorder.of("/label-studio/webhook"))
    calls = recorder.of("/label-studio/webhook")
    assert {call.status for call in calls} == {200}
    created = next(call.json for call in calls if call.json["action"] == "ANNOTATION_CREATED")
    keep("webhook", created)


def is_embedded(client: Client, image: bytes) -> bool:
    try:
        client.embed(CachedImage(image_id(image)))
    except EmbeddingNotCached:
        return False
    return True


def zipped(archive: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        return files.read(name)


def problems(label_config: str, regions: list[dict[str, Any]]) -> list[str]:
    """What Label Studio's own library finds wrong with a prediction."""
    program = (
        "import json, sys; from label_studio_sdk.label_interface import LabelInterface; "
        "config, prediction = json.load(sys.stdin); "
        "checked = LabelInterface(config).validate_prediction(prediction, return_errors=True); "
        "print(json.dumps(checked))"
    )
    python = client_venv("label-studio", [f"label-studio=={label_studio.VERSION}"])
    prediction = {"model_version": "samserve", "score": 0.5, "result": regions}
    printed = subprocess.run(
        [python, "-c", program],
        input=json.dumps([label_config, prediction]),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found: list[str] = json.loads(printed)
    return found
