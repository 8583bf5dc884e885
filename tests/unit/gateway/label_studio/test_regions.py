"""Masks as regions: brush, bitmask, polygons, rectangle."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from samserve.client import Mask, Polygon
from samserve.core.geometry import Size
from samserve.core.rle import encode_rle
from samserve.core.runs import area, box, runs_of
from samserve.decoder.masks.png import encode_png
from samserve.decoder.masks.polygons import polygons
from samserve.gateway.label_studio.bitmask import bitmask_url
from samserve.gateway.label_studio.config import Kind, OutputTag
from samserve.gateway.label_studio.regions import regions
from unit.gateway.label_studio.test_brush import pixels

HEIGHT, WIDTH = 30, 50


def ring() -> np.ndarray:
    """Two parts, one with a hole."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:20, 10:30] = True
    mask[8:12, 15:20] = False
    mask[22:25, 40:45] = True
    return mask


def answered(pixels: np.ndarray) -> Mask:
    runs = runs_of(pixels)
    around = box(runs)
    return Mask(
        size=Size(WIDTH, HEIGHT),
        rle=encode_rle(runs),
        predicted_iou=1.03,
        stability_score=0.9,
        area=area(runs),
        bbox=(around.x0, around.y0, around.x1, around.y1),
        low_res_logits=b"",
        png=encode_png(runs),
        polygons=[Polygon(each.exterior, each.holes) for each in polygons(runs, 0)],
        bits=b"",
    )


def tag(kind: Kind, *labels: str, kind_of: str = "labels") -> OutputTag:
    return OutputTag(kind, f"{kind}{kind_of}", "control", "image", labels)


def written(kind: Kind, label: str = "Coin") -> list[dict[str, Any]]:
    return regions(answered(ring()), tag(kind, "Bill", "Coin"), label)


@pytest.mark.parametrize("kind", ["brush", "bitmask", "polygon", "rectangle"])
def test_a_region_has_the_fields_of_every_kind(kind: Kind) -> None:
    found = written(kind)
    for region in found:
        assert region["type"] == f"{kind}labels"
        assert (region["from_name"], region["to_name"]) == ("control", "image")
        assert (region["original_width"], region["original_height"]) == (WIDTH, HEIGHT)
        assert (region["image_rotation"], region["score"], region["readonly"]) == (0, 1.0, False)
        assert region["value"][f"{kind}labels"] == ["Coin"]
    assert len({region["id"] for region in found}) == len(found)


def test_a_brush_region_is_the_mask_bit_for_bit() -> None:
    (region,) = written("brush")
    assert region["value"]["format"] == "rle"
    assert np.array_equal(pixels(region["value"]["rle"], (HEIGHT, WIDTH)), ring())


def test_a_bitmask_is_opaque_black_on_the_object_and_transparent_elsewhere() -> None:
    (region,) = written("bitmask")
    kind, _, data = region["value"]["imageDataURL"].partition(",")
    assert kind == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (image.mode, image.size) == ("P", (WIDTH, HEIGHT))
    rgba = np.asarray(image.convert("RGBA"))
    assert np.array_equal(rgba[..., 3], ring() * np.uint8(255))
    assert not rgba[..., :3].any()


def test_any_other_png_is_refused() -> None:
    with pytest.raises(ValueError, match="no PNG"):
        bitmask_url(answered(ring()).png, Size(1, 1))


def test_each_part_is_a_polygon_in_percent_without_its_hole() -> None:
    found = {len(region["value"]["points"]): region["value"] for region in written("polygon")[:1]}
    corners = np.array(sorted(found[4]["points"]))
    percent = [[20, 50 / 3], [20, 200 / 3], [60, 50 / 3], [60, 200 / 3]]
    assert np.allclose(corners, percent)
    assert found[4]["closed"] is True
    assert len(written("polygon")) == 2


def test_a_rectangle_is_the_box_in_percent() -> None:
    (region,) = written("rectangle")
    value = region["value"]
    assert (value["x"], value["width"], value["rotation"]) == pytest.approx((20, 70, 0))
    assert (value["y"], value["height"]) == pytest.approx((500 / 30, 2000 / 30))


def test_a_label_that_the_control_lacks_is_replaced_by_its_first() -> None:
    assert written("brush", "Stamp")[0]["value"]["brushlabels"] == ["Bill"]
    dynamic = regions(answered(ring()), tag("brush"), "Stamp")
    assert dynamic[0]["value"]["brushlabels"] == ["Stamp"]
    plain = regions(answered(ring()), tag("brush", kind_of=""), "Stamp")
    assert (plain[0]["type"], set(plain[0]["value"])) == ("brush", {"format", "rle"})


def test_an_empty_mask_is_no_region() -> None:
    assert regions(answered(np.zeros((HEIGHT, WIDTH), bool)), tag("brush", "Coin"), "Coin") == []
