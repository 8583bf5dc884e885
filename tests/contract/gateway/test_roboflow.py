"""Roboflow's routes, by requests that its clients sent."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import numpy as np
import pytest
from contract.gateway.fake_client import app_of, fake_service
from contract.gateway.masks import drawn, iou, without_holes
from contract.gateway.payloads import payload, picture, replay
from fastapi import FastAPI
from samserve.client import Box, CachedImage, Click, Concept, Prompt
from samserve.core.contours import external_contours
from samserve.core.image_id import image_id
from samserve.core.rle import decode_rle
from samserve.core.runs import runs_of
from samserve.gateway.roboflow import routes as roboflow
from samserve.gateway.service import Service
from samserve.infra.settings import GatewaySettings

POINTS = Prompt([Click(20, 15), Click(2, 3, on=False)])
MIXED = [
    Prompt(box=Box(12, 9, 28, 21)),
    Prompt([Click(20, 15)]),
    Prompt([Click(11, 10)], Box(7.5, 5.5, 16.5, 14.5)),
    Prompt([Click(30, 22)]),
]


@pytest.fixture(scope="module")
def service() -> Service:
    return fake_service(GatewaySettings())


@pytest.fixture(scope="module")
def gateway_app(service: Service) -> FastAPI:
    return app_of(roboflow.routes, service)


async def post(http: httpx.AsyncClient, path: str, **body: Any) -> httpx.Response:
    return await http.post(path, json=body)


def base64_image(data: bytes) -> dict[str, str]:
    return {"type": "base64", "value": base64.b64encode(data).decode()}


@pytest.mark.parametrize("name", ["points", "points-async", "visual-segment"])
async def test_a_prompt_gets_the_candidate_of_the_highest_predicted_iou(
    http: httpx.AsyncClient, service: Service, name: str
) -> None:
    answer = await replay(http, f"roboflow/{name}", format="rle")
    assert answer.status_code == 200, answer.text
    (found,) = answer.json()["predictions"]
    multimask = payload(f"roboflow/{name}")["body"]["multimask_output"]
    prompt = Prompt(POINTS.points, multimask=multimask)
    masks = (await service.client.predict(picture(), [prompt])).masks
    best = max(masks, key=lambda mask: mask.predicted_iou)
    assert found["masks"] == {"size": [30, 40], "counts": best.rle.decode()}
    assert found["confidence"] == pytest.approx(best.predicted_iou)
    assert answer.json()["time"] > 0


async def test_mixed_boxes_and_points_get_one_prediction_each_in_their_order(
    http: httpx.AsyncClient, service: Service
) -> None:
    answer = await replay(http, "roboflow/mixed")
    expected = (await service.client.predict(picture(), MIXED)).results
    found = answer.json()["predictions"]
    assert len(found) == len(MIXED)
    for prediction, masks in zip(found, expected, strict=True):
        best = max(masks, key=lambda mask: mask.predicted_iou)
        assert prediction["masks"]["counts"] == best.rle.decode()
        assert prediction["format"] == "rle"


async def test_polygons_are_all_outer_contours_of_the_mask(http: httpx.AsyncClient) -> None:
    polygons = (await replay(http, "roboflow/points")).json()["predictions"][0]
    rle = (await replay(http, "roboflow/points", format="rle")).json()["predictions"][0]
    mask = decode_rle(rle["masks"]["counts"].encode(), 30, 40)
    assert polygons["format"] == "polygon"
    assert polygons["masks"] == [each.tolist() for each in external_contours(runs_of(mask))]
    assert iou(drawn(polygons["masks"], 30, 40), without_holes(mask)) == 1


@pytest.mark.parametrize(
    "prompts",
    [
        [{"points": [{"x": 20, "y": 15, "positive": True}]}],
        {"points": [{"x": 20, "y": 15, "positive": True}]},
        {"prompts": [{"points": [{"x": 20, "y": 15, "positive": True}], "box": None}]},
    ],
)
async def test_prompts_are_accepted_in_every_form(http: httpx.AsyncClient, prompts: Any) -> None:
    answer = await replay(http, "roboflow/points", prompts=prompts)
    assert len(answer.json()["predictions"]) == 1


async def test_a_box_that_is_partly_outside_is_cut_off(
    http: httpx.AsyncClient, service: Service
) -> None:
    outside = [{"box": {"x": 30, "y": 10, "width": 40, "height": 40}}]
    answer = await replay(http, "roboflow/points", prompts=outside, format="rle")
    cut = await service.client.predict(picture(), [Prompt(box=Box(10, 0, 40, 30))])
    counts = answer.json()["predictions"][0]["masks"]["counts"]
    assert counts in [mask.rle.decode() for mask in cut.masks]


async def test_a_binary_answer_has_pixels_and_logits_of_the_same_sign(
    http: httpx.AsyncClient,
) -> None:
    answer = await replay(http, "roboflow/mixed", format="binary")
    rle = (await replay(http, "roboflow/mixed")).json()["predictions"]
    arrays = np.load(io.BytesIO(answer.content), allow_pickle=False)
    assert arrays["masks"].shape == (4, 30, 40)
    assert arrays["low_res_masks"].shape == (4, 256, 256)
    assert arrays["low_res_masks"].dtype == np.float32
    for pixels, expected in zip(arrays["masks"], rle, strict=True):
        mask = decode_rle(expected["masks"]["counts"].encode(), 30, 40)
        assert np.array_equal(pixels > 0, mask)
        assert np.array_equal(pixels >= 0, mask)


async def test_an_image_without_a_name_is_named_by_its_hash(http: httpx.AsyncClient) -> None:
    answer = (await replay(http, "roboflow/embed")).json()
    assert answer["image_id"] == image_id(picture())
    by_id = await replay(http, "roboflow/points", image=None, image_id=answer["image_id"])
    assert len(by_id.json()["predictions"]) == 1


@pytest.mark.parametrize("name", ["embed-key-in-header", "embed-key-in-both"])
async def test_a_named_image_is_found_under_the_same_key_only(
    http: httpx.AsyncClient, name: str
) -> None:
    assert (await replay(http, f"roboflow/{name}")).json()["image_id"] == "my-photo"

    named = {
        "image_id": "my-photo",
        "prompts": {"points": [{"x": 20, "y": 15, "positive": True}]},
    }
    for same in (
        await http.post("/sam2/segment_image", json={**named, "api_key": "a-key"}),
        await http.post("/sam2/segment_image?api_key=a-key", json=named),
        await http.post(
            "/sam2/segment_image", json=named, headers={"authorization": "Bearer a-key"}
        ),
    ):
        assert same.status_code == 200
    other = await http.post("/sam2/segment_image", json={**named, "api_key": "another"})
    assert other.status_code == 404
    assert "my-photo" in other.json()["message"]


async def test_an_image_that_is_sent_decides_over_its_name(
    http: httpx.AsyncClient, picture: bytes
) -> None:
    await replay(http, "roboflow/embed-named")
    await post(http, "/sam3/embed_image", image=base64_image(picture), image_id="my-photo")
    answer = await post(
        http,
        "/sam3/visual_segment",
        image_id="my-photo",
        prompts={"points": [{"x": 20, "y": 15, "positive": True}]},
        format="rle",
    )
    assert answer.json()["predictions"][0]["masks"]["size"] == [200, 320]


async def test_sams_route_answers_the_four_masks_of_its_exported_decoder(
    http: httpx.AsyncClient, service: Service
) -> None:
    prompt = {"point_coords": [[20, 15], [2, 3]], "point_labels": [1, 0]}
    answer = await post(http, "/sam/segment_image", image=base64_image(picture()), **prompt)
    assert answer.status_code == 200, answer.text
    single, three = (
        await service.client.predict(
            CachedImage(image_id(picture())),
            [Prompt(POINTS.points, multimask=False), Prompt(POINTS.points)],
        )
    ).results
    expected = [*single, *sorted(three, key=lambda mask: mask.candidate)]
    assert len(answer.json()["masks"]) == len(answer.json()["low_res_masks"]) == 4
    for polygon, mask in zip(answer.json()["masks"], expected, strict=True):
        contours = [each.tolist() for each in external_contours(mask.runs())]
        assert polygon == max(contours, key=len, default=[])


async def test_sams_route_accepts_a_box_as_two_points(
    http: httpx.AsyncClient, service: Service
) -> None:
    answer = await post(
        http,
        "/sam/segment_image",
        image=base64_image(picture()),
        point_coords=[[12, 9], [28, 21]],
        point_labels=[2, 3],
        format="binary",
    )
    expected = await service.client.predict(picture(), [Prompt(box=Box(12, 9, 28, 21))])
    masks = np.load(io.BytesIO(answer.content))["masks"]
    by_candidate = sorted(expected.masks, key=lambda mask: mask.candidate)
    assert np.array_equal(masks[1:] > 0, [mask.array() for mask in by_candidate])


@pytest.mark.parametrize("form", ["json", "binary"])
async def test_sams_route_refines_a_mask_that_is_sent(
    http: httpx.AsyncClient, service: Service, form: str
) -> None:
    square = np.zeros((256, 256), np.float32)
    square[64:128, 64:192] = 1
    file = io.BytesIO()
    np.save(file, square[None, None])
    corners = [[64, 64], [192, 64], [192, 128], [64, 128]]
    sent = [corners] if form == "json" else base64.b64encode(file.getvalue()).decode()
    answer = await post(
        http,
        "/sam/segment_image",
        image=base64_image(picture()),
        point_coords=[[20, 15]],
        point_labels=[1],
        has_mask_input=True,
        mask_input=sent,
        mask_input_format=form,
        format="binary",
    )
    prompt = Prompt([Click(20, 15)], mask_input=square.astype("<f2").tobytes(), multimask=False)
    expected = (await service.client.predict(picture(), [prompt])).masks[0]
    masks = np.load(io.BytesIO(answer.content))["masks"]
    assert np.array_equal(masks[0] > 0, expected.array())


@pytest.mark.parametrize("form", ["json", "binary"])
async def test_an_embedding_is_returned_as_float32(
    http: httpx.AsyncClient, service: Service, form: str
) -> None:
    answer = await post(
        http, "/sam/embed_image", image=base64_image(picture()), image_id="mine", format=form
    )
    if form == "json":
        array = np.array(answer.json()["embeddings"], np.float32)
    else:
        assert answer.headers["content-type"] == "application/octet-stream"
        array = np.load(io.BytesIO(answer.content))
        assert array.dtype == np.float32
    expected = await service.client.embedding(picture())
    assert np.array_equal(array[0], expected.tensors["embedding"].astype(np.float32))


async def test_the_server_and_its_models_are_described(http: httpx.AsyncClient) -> None:
    assert {"name", "version", "uuid"} <= (await replay(http, "roboflow/info")).json().keys()
    for name in ("registry", "add-model"):
        model, _ = (await replay(http, f"roboflow/{name}")).json()["models"]
        assert model["model_id"] == "nano"
        assert model["task_type"] == "unsupervised-segmentation"


def asked_concepts(service: Service) -> list[Concept]:
    concepts: list[Concept] = service.client.concepts
    return concepts


async def test_a_phrase_gets_predictions_of_its_own(
    http: httpx.AsyncClient, service: Service
) -> None:
    answer = await replay(http, "roboflow/concepts")
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["prompt_results"]
    assert result["echo"] == {"prompt_index": 0, "type": "text", "text": "coin"}
    (found,) = result["predictions"]
    assert (found["confidence"], found["format"]) == (0.75, "polygon")
    assert len(found["masks"][0]) > 3
    assert asked_concepts(service)[-1].text == "coin"


async def test_example_boxes_have_labels_and_two_forms(
    http: httpx.AsyncClient, service: Service
) -> None:
    call = payload("roboflow/concepts")["body"]
    boxes = [{"x": 1, "y": 2, "width": 3, "height": 4}, {"x0": 5, "y0": 6, "x1": 7, "y1": 8}]
    call["prompts"] = [{"type": "visual", "boxes": boxes, "box_labels": [1, 0]}]
    call["format"] = "rle"
    answer = await http.post("/sam3/concept_segment", json=call)
    assert answer.status_code == 200, answer.text
    assert answer.json()["prompt_results"][0]["predictions"][0]["format"] == "rle"
    first, second = asked_concepts(service)[-1].examples
    assert (first.box, first.negative) == (Box(1, 2, 4, 6), False)
    assert (second.box, second.negative) == (Box(5, 6, 7, 8), True)

    call["prompts"][0]["box_labels"] = [1]
    answer = await http.post("/sam3/concept_segment", json=call)
    assert answer.status_code == 400
    assert "1 labels for 2 boxes" in answer.json()["message"]


PROMPT = [{"points": [{"x": 20, "y": 15, "positive": True}]}]
PICKLED = base64.b64encode(np.array([{}], object).dumps()).decode()


@pytest.mark.parametrize(
    ("changed", "status", "expected"),
    [
        ({"prompts": None}, 400, "prompts: none given"),
        ({"prompts": {"prompts": PROMPT * 65}}, 400, "prompts: 65 prompts; the limit is 64"),
        ({"prompts": [{"points": [{"x": 1, "y": 2}]}]}, 422, "positive"),
        ({"prompts": [{"points": [{"x": 99, "y": 2, "positive": True}]}]}, 400, "40 x 30"),
        ({"image": None}, 400, "image: missing"),
        ({"image": None, "image_id": "never-sent"}, 404, "never-sent"),
        ({"image": {"type": "url", "value": "http://a/b"}}, 400, "SAMSERVE_IMAGE_HOSTS"),
        ({"image": {"type": "numpy", "value": PICKLED}}, 400, "never read"),
        ({"image": {"type": "file", "value": "/etc/passwd"}}, 400, "unknown image.type 'file'"),
        ({"image": {"type": "base64", "value": "%%%"}}, 400, "image.value"),
        ({"image": {"type": "base64", "value": ""}}, 400, "image.value: empty"),
        ({"image": {"type": "base64", "value": "aGVsbG8="}}, 400, "image"),
        ({"image": [{"type": "base64", "value": ""}]}, 422, "image"),
        ({"format": "coco"}, 422, "format"),
    ],
)
async def test_a_failure_is_one_message_that_names_the_field(
    http: httpx.AsyncClient, changed: dict[str, Any], status: int, expected: str
) -> None:
    answer = await replay(http, "roboflow/points", **changed)
    assert (answer.status_code, answer.json().keys()) == (status, {"message"})
    assert expected in answer.json()["message"]


@pytest.mark.parametrize(
    ("sam", "expected"),
    [
        ({}, "point_coords"),
        ({"point_coords": [[1, 2]], "point_labels": [1, 0]}, "2 labels for 1 points"),
        ({"point_coords": [[1, 2]], "point_labels": [7]}, "unknown label 7"),
        ({"point_coords": [[1, 2]], "point_labels": [2]}, "one of label 3"),
        ({"has_mask_input": True}, "mask_input: missing"),
        ({"has_mask_input": True, "mask_input": [[1, 2]]}, "mask_input"),
        (
            {"has_mask_input": True, "mask_input": PICKLED, "mask_input_format": "binary"},
            "no .npy file",
        ),
        ({"embeddings": [1], "point_coords": [[1, 2]], "point_labels": [1]}, "embeddings"),
    ],
)
async def test_an_invalid_prompt_of_sams_route_is_refused_by_its_field(
    http: httpx.AsyncClient, sam: dict[str, Any], expected: str
) -> None:
    answer = await post(http, "/sam/segment_image", image=base64_image(picture()), **sam)
    assert answer.status_code == 400
    assert expected in answer.json()["message"]


class TestOtherSettings:
    @pytest.fixture
    def service(self) -> Service:
        return fake_service(
            GatewaySettings(max_image_bytes=200, gateway_models={"hiera_tiny": "missing"})
        )

    @pytest.fixture
    def gateway_app(self, service: Service) -> FastAPI:
        return app_of(roboflow.routes, service)

    async def test_an_image_over_the_limit_is_refused_before_it_is_decoded(
        self, http: httpx.AsyncClient
    ) -> None:
        sent = {"type": "base64", "value": "A" * 400}
        answer = await replay(http, "roboflow/points", image=sent)
        assert answer.status_code == 400
        assert answer.json()["message"] == "image.value: 300 bytes; the limit is 200"

    async def test_a_models_name_is_mapped_by_the_setting(self, http: httpx.AsyncClient) -> None:
        missing = await replay(http, "roboflow/points")
        assert missing.status_code == 404
        assert "unknown model 'missing'" in missing.json()["message"]
        assert (await replay(http, "roboflow/mixed")).status_code == 200
