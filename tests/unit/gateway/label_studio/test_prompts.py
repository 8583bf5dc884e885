"""Contexts as prompts."""

from __future__ import annotations

from typing import Any

import pytest
from samserve.client import Box, Click
from samserve.core.errors import InvalidInput
from samserve.core.geometry import Size
from samserve.gateway.label_studio.messages import Context
from samserve.gateway.label_studio.prompts import ObjectPrompt, object_prompts

SIZE = Size(400, 200)


def region(kind: str, label: str = "Coin", **fields: Any) -> dict[str, Any]:
    value = {
        name: fields.pop(name)
        for name in list(fields)
        if name not in ("is_positive", "image_rotation")
    }
    return {"type": kind, "value": {"x": 0, "y": 0, kind: [label], **value}, **fields}


def point(x: float, y: float, **fields: Any) -> dict[str, Any]:
    return region("keypointlabels", x=x, y=y, width=0.3, **fields)


def rectangle(x: float, y: float, width: float, height: float, **fields: Any) -> dict[str, Any]:
    return region("rectanglelabels", x=x, y=y, width=width, height=height, **fields)


def prompts(*regions: dict[str, Any]) -> list[ObjectPrompt]:
    return object_prompts(Context.model_validate({"result": regions}).result, SIZE)


def test_keypoints_are_clicks_on_one_object() -> None:
    (found,) = prompts(
        point(50, 50, is_positive=True),
        point(25, 10, is_positive=False),
        point(0, 100),
        point(10, 10, positive=False),
    )
    assert found.label == "Coin"
    assert found.prompt.box is None
    assert list(found.prompt.points) == [
        Click(200, 100, True),
        Click(100, 20, False),
        Click(0, 200, True),
        Click(40, 20, False),
    ]


@pytest.mark.parametrize(
    ("given", "on"), [(True, True), (1, True), (False, False), (0, False), (None, True)]
)
def test_only_what_is_marked_negative_is_background(given: object, on: bool) -> None:
    found = prompts(point(50, 50), point(1, 1, is_positive=given))
    assert list(found[0].prompt.points)[1].on is on


def test_each_rectangle_is_an_object_with_its_label() -> None:
    found = prompts(rectangle(10, 10, 20, 50), rectangle(50, 0, 50, 100, label="Bill"))
    assert [each.prompt.box for each in found] == [Box(40, 20, 120, 120), Box(200, 0, 400, 200)]
    assert [each.label for each in found] == ["Coin", "Bill"]


def test_one_rectangle_takes_every_keypoint() -> None:
    (found,) = prompts(rectangle(10, 10, 20, 50), point(90, 90, is_positive=False))
    assert (found.prompt.box, len(found.prompt.points)) == (Box(40, 20, 120, 120), 1)


def test_several_rectangles_take_the_keypoints_inside_and_the_rest_is_an_object() -> None:
    found = prompts(
        rectangle(0, 0, 20, 20),
        rectangle(50, 50, 20, 20),
        point(10, 10),
        point(60, 60),
        point(90, 90),
    )
    assert [list(each.prompt.points) for each in found] == [
        [Click(40, 20)],
        [Click(240, 120)],
        [Click(360, 180)],
    ]


def test_a_rotated_rectangle_and_an_ellipse_become_the_boxes_around_them() -> None:
    (turned,) = prompts(rectangle(50, 50, 10, 10, rotation=90))
    box = turned.prompt.box
    assert isinstance(box, Box)
    assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx((180, 100, 200, 140))
    (ellipse,) = prompts(region("ellipselabels", x=50, y=50, radiusX=10, radiusY=5))
    assert ellipse.prompt.box == Box(160, 90, 240, 110)


def test_places_that_exceed_the_image_are_cut_off() -> None:
    (found,) = prompts(rectangle(-1, -1, 200, 200), point(100.001, -0.001))
    assert found.prompt.box == Box(0, 0, 400, 200)
    assert list(found.prompt.points) == [Click(400, 0)]


@pytest.mark.parametrize(
    ("regions", "field", "problem"),
    [
        ([region("polygonlabels")], "[0].type", "'polygonlabels' is not supported"),
        ([point(1, 1), rectangle(10, 10, 0, 5)], "[1].value", "empty"),
        ([rectangle(150, 10, 5, 5)], "[0].value", "outside"),
        ([point(1, 1, image_rotation=90)], "[0].image_rotation", "90"),
        ([point(1, 1, is_positive=False)], "", "background"),
    ],
)
def test_what_cannot_be_a_prompt_is_refused_with_the_fields_name(
    regions: list[dict[str, Any]], field: str, problem: str
) -> None:
    with pytest.raises(InvalidInput, match=problem) as caught:
        prompts(*regions)
    assert caught.value.field == f"params.context.result{field}"
