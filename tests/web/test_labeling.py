"""A person labels an image: the masks that are exported are those that the server gives."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from playwright.sync_api import BrowserContext, expect
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from samserve.client import Box, Click, Client
from samserve.client.everything import GridOptions
from stacks import until
from web.annotator import SWEEP, Annotator

COIN = (213.0, 193.0)
OTHER_COIN = (52.0, 50.0)

# The service worker has kept the page, its worker, the decoder and the embedding.
KEPT = """async () => {
  const found = [];
  for (const name of await caches.keys())
    for (const { url } of await (await caches.open(name)).keys()) found.push(url);
  return ["/", ".wasm", "/embedding", "/decoder/", "worker"].every((part) =>
    found.some((url) => (part === "/" ? new URL(url).pathname === "/" : url.includes(part))));
}"""


def rle_of(
    client: Client, image: Path, points: Sequence[Click] = (), box: Box | None = None
) -> Any:
    """The server's best mask for a prompt, as COCO's RLE."""
    mask = client.segment(image, list(points), box=box).masks[0]
    return {"size": [mask.size.height, mask.size.width], "counts": mask.rle}


def same(annotation: Any, rle: Any) -> bool:
    return bool(coco_mask.iou([annotation["segmentation"]], [rle], [0])[0, 0] >= 0.99)


def test_labeled_image_is_exported_with_the_masks_of_the_server(
    annotator: Annotator, coins: Path, client: Client, tmp_path: Path
) -> None:
    annotator.drop(coins)
    with annotator.expect_requests():  # the decoder runs in the page
        annotator.hover(*OTHER_COIN)
        annotator.hover(*COIN)
        annotator.click(*COIN)
        annotator.click(230, 210, leave_out=True)

        # A box that is undone leaves the two clicks.
        annotator.press("b")
        annotator.draw((150, 40), (200, 90))
        annotator.press("Control+z")
        annotator.accept()

        annotator.add_class("coin")
        annotator.press("c")
        annotator.click(*OTHER_COIN)
        annotator.accept()
    assert annotator.objects() == ["coin 2", "object 1"]

    with annotator.expect_requests("everything"):
        annotator.press("g")
        annotator.page.get_by_role("progressbar").wait_for()
        annotator.button("Accept all").click()
    exported = annotator.export()

    (tmp_path / "coco.json").write_bytes(exported.read_bytes())
    coco = COCO(str(tmp_path / "coco.json"))
    names = {each["id"]: each["name"] for each in coco.loadCats(coco.getCatIds())}
    first, second, *rest = coco.loadAnns(coco.getAnnIds())
    assert (names[first["category_id"]], names[second["category_id"]]) == ("object", "coin")
    assert same(first, rle_of(client, coins, [Click(*COIN), Click(230, 210, on=False)]))
    assert same(second, rle_of(client, coins, [Click(*OTHER_COIN)]))

    found = client.generate_masks(coins, GridOptions(**SWEEP)).records
    assert sorted(each["segmentation"]["counts"] for each in rest) == sorted(
        each.mask.rle.decode() for each in found
    )
    for annotation in (first, second, *rest):
        pixels = coco.annToMask(annotation)
        assert annotation["area"] == pixels.sum()
        x, y, width, height = annotation["bbox"]
        rows, columns = np.nonzero(pixels)
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
    assert annotator.failures == []


def test_box_and_candidates_give_the_masks_of_the_server(
    annotator: Annotator, coins: Path, client: Client
) -> None:
    annotator.drop(coins)
    annotator.draw((150, 40), (200, 90))  # a drag with the click tool is a box
    annotator.accept()
    annotator.click(*COIN)
    annotator.press("2")
    annotator.accept()

    boxed, second = annotator.export_coco()["annotations"]
    assert same(boxed, rle_of(client, coins, box=Box(150, 40, 200, 90)))
    asked = client.segment(coins, [Click(*COIN)]).masks[1]
    assert same(second, {"size": [asked.size.height, asked.size.width], "counts": asked.rle})


def test_server_decodes_the_same_masks(annotator: Annotator, coins: Path) -> None:
    annotator.drop(coins)
    annotator.click(*COIN)
    annotator.accept()
    annotator.choose_place("the server")
    with annotator.expect_requests("masks"):
        annotator.hover(*OTHER_COIN)
        annotator.click(*COIN)
    annotator.accept()
    here, there = annotator.export_coco()["annotations"]
    assert same(here, there["segmentation"])
    expect(annotator.page.get_by_test_id("decoder")).to_contain_text("on the server")


def test_suggestions_are_decided_one_by_one(annotator: Annotator, coins: Path) -> None:
    annotator.drop(coins)
    annotator.press("s")
    panel = annotator.page.get_by_role("region", name="Suggestions")
    panel.wait_for()
    count = int((panel.get_by_text(" of ").text_content() or "").split(" of ")[1])
    annotator.press("a", "d", "w", "a")
    assert len(annotator.objects()) == 2
    expect(panel).to_contain_text(f"of {count - 3}")

    # Undone one by one as well.
    annotator.press("Control+z", "Control+z")
    expect(panel).to_contain_text(f"of {count - 1}")
    assert len(annotator.objects()) == 1

    # An unsure one asks about a place; the answer is a click there.
    while annotator.button("Yes").count() == 0:
        annotator.press("w")
    annotator.press("Shift+o")
    annotator.accept()
    assert len(annotator.objects()) == 2
    draft = saved(annotator)["objects"][1]["draft"]
    assert [point["label"] for point in draft["points"]] == ["foreground", "background"]


def test_suggestions_leave_out_what_is_accepted(annotator: Annotator, coins: Path) -> None:
    annotator.drop(coins)
    annotator.click(*COIN)
    annotator.accept()
    accepted = annotator.export_coco()["annotations"][0]["segmentation"]
    annotator.press("s")
    annotator.button("Accept all").click()
    _, *found = annotator.export_coco()["annotations"]
    shares = coco_mask.iou([each["segmentation"] for each in found], [accepted], [1])
    assert found and shares.max() < 0.5


def test_sweep_is_cancelled(annotator: Annotator, coins: Path) -> None:
    annotator.drop(coins)
    annotator.press("g")
    annotator.button("Cancel").click()
    annotator.page.get_by_role("progressbar").wait_for(state="detached")
    assert annotator.page.get_by_role("region", name="Suggestions").count() == 0


def test_brush_and_eraser_change_the_mask(annotator: Annotator, coins: Path) -> None:
    annotator.drop(coins)
    annotator.click(*COIN)
    annotator.accept()
    annotator.press("j", "m", "p")
    annotator.draw((213, 193), (300, 193))
    annotator.button("Save").click()
    annotator.press("e")
    annotator.draw((280, 193), (320, 193))
    annotator.button("Save").click()

    (annotation,) = annotator.export_coco()["annotations"]
    pixels = coco_mask.decode(annotation["segmentation"])
    assert pixels[193, 213] and pixels[193, 250]
    assert not pixels[193, 290]
    annotator.press(*["Control+z"] * 5)
    (before,) = annotator.export_coco()["annotations"]
    assert before["area"] < annotation["area"]


def test_keyboard_alone_labels_an_object(annotator: Annotator, coins: Path) -> None:
    annotator.drop(coins)
    annotator.page.locator("#stage").focus()
    annotator.press("ArrowRight", "Shift+ArrowUp", "i")
    annotator.accept()
    annotator.press("j", "Shift+1", "Delete")
    assert annotator.objects() == []
    annotator.press("?")
    annotator.page.get_by_role("dialog", name="Keys").wait_for()
    annotator.press("Escape")
    annotator.page.get_by_role("dialog").wait_for(state="detached")


def test_refining_asks_with_the_mask_before(annotator: Annotator, coins: Path) -> None:
    annotator.drop(coins)
    annotator.click(*COIN)
    annotator.press("r")
    annotator.page.get_by_role("group", name="Candidate").wait_for(state="detached")  # now one mask
    annotator.accept()
    assert saved(annotator)["objects"][0]["draft"]["maskInput"] is not None


def test_network_is_not_needed_once_the_embedding_has_come(
    offline: BrowserContext, coins: Path
) -> None:
    annotator = Annotator.at(offline.new_page(), fewer_points=False)
    annotator.drop(coins)
    annotator.page.wait_for_function(KEPT)
    offline.set_offline(True)
    annotator.hover(*OTHER_COIN)
    annotator.click(*COIN)
    annotator.accept()

    annotator.page.reload()
    annotator.wait_until_ready()
    annotator.click(*OTHER_COIN)
    annotator.accept()
    assert annotator.objects() == ["object 2", "object 1"]
    assert len(annotator.export_coco()["annotations"]) == 2


def test_reload_in_the_middle_loses_nothing(annotator: Annotator, coins: Path) -> None:
    annotator.drop(coins)
    annotator.add_class("coin")
    annotator.click(*COIN)
    annotator.accept()
    annotator.click(*OTHER_COIN)
    annotator.press("p")
    annotator.draw((10, 10), (40, 40))
    before = saved(annotator)

    annotator.page.reload()
    annotator.wait_until_ready()
    assert saved(annotator) == before
    assert annotator.objects() == ["coin 1"]
    annotator.accept()
    assert annotator.objects() == ["coin 2", "coin 1"]


def test_exports_have_the_same_masks(annotator: Annotator, coins: Path) -> None:
    annotator.drop(coins)
    annotator.click(*COIN)
    annotator.accept()
    annotator.add_class("coin")
    annotator.click(*OTHER_COIN)
    annotator.accept()
    annotations = annotator.export_coco()["annotations"]
    masks = [coco_mask.decode(each["segmentation"]).astype(bool) for each in annotations]
    names = ["001-object.png", "002-coin.png"]

    with zipfile.ZipFile(annotator.export("PNG masks")) as files:
        for name, mask in zip(names, masks, strict=True):
            pixels = np.asarray(Image.open(io.BytesIO(files.read(f"masks/coins/{name}"))))
            assert np.array_equal(pixels, mask * np.uint8(255))

    photo = np.asarray(Image.open(coins).convert("RGB"))
    with zipfile.ZipFile(annotator.export("Cut-outs")) as files:
        for name, mask, annotation in zip(names, masks, annotations, strict=True):
            x, y, width, height = annotation["bbox"]
            part = np.s_[y : y + height, x : x + width]
            pixels = np.asarray(Image.open(io.BytesIO(files.read(f"cutouts/coins/{name}"))))
            assert np.array_equal(pixels[..., 3], mask[part] * np.uint8(255))
            assert np.array_equal(pixels[..., :3][mask[part]], photo[part][mask[part]])

    with zipfile.ZipFile(annotator.export("YOLO segmentation")) as files:
        assert 'names:\n  0: "object"\n  1: "coin"' in files.read("data.yaml").decode()
        lines = files.read("labels/coins.txt").decode().splitlines()
    for index, (line, mask) in enumerate(zip(lines, masks, strict=True)):
        number, *shares = line.split()
        size = np.array([mask.shape[1], mask.shape[0]])
        corners = np.array(shares, float).reshape(-1, 2) * size
        drawn = np.zeros(mask.shape, np.uint8)
        cv2.fillPoly(drawn, [np.round(corners - 0.5).astype(np.int32)], 1)
        overlap = (drawn.astype(bool) & mask).sum() / (drawn.astype(bool) | mask).sum()
        assert (int(number), overlap > 0.9) == (index, True)

    coco = json.loads(annotator.export(choice="Polygons").read_text())
    for annotation, mask in zip(coco["annotations"], masks, strict=True):
        height, width = mask.shape
        (drawn,) = coco_mask.decode(
            [coco_mask.merge(coco_mask.frPyObjects(annotation["segmentation"], height, width))]
        ).transpose(2, 0, 1)
        overlap = (drawn.astype(bool) & mask).sum() / (drawn.astype(bool) | mask).sum()
        assert overlap > 0.9


def test_imported_annotations_are_gone_on_with(
    annotator: Annotator, coins: Path, tmp_path: Path
) -> None:
    annotator.drop(coins)
    annotator.click(*COIN)
    annotator.accept()
    coco = annotator.export_coco()
    coco["categories"] = [{**coco["categories"][0], "name": "coin"}]
    coco["images"].append({"id": 2, "file_name": "later.png", "width": 384, "height": 303})
    coco["annotations"].append({**coco["annotations"][0], "id": 2, "image_id": 2})

    annotator.import_coco(coco)
    annotator.wait_for_sentence("2 objects were imported")
    assert annotator.objects() == ["coin 2", "object 1"]
    first, second = annotator.export_coco()["annotations"]
    assert first["segmentation"] == second["segmentation"]

    # The other image's objects come with it.
    photo = Image.open(coins).convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    photo.save(tmp_path / "later.png")
    annotator.drop(tmp_path / "later.png")
    expect(annotator.page.locator("[data-object] .name")).to_have_text(["coin 1"])


def test_images_of_a_strip_keep_their_labels(
    annotator: Annotator, coins: Path, tmp_path: Path
) -> None:
    first = ("coins.png", coins.read_bytes() + b"never sent before")
    other = tmp_path / "other.png"
    Image.open(coins).convert("RGB").rotate(180).save(other)
    annotator.drop(first, other)
    annotator.click(*COIN)
    annotator.accept()

    # The next image is embedded while this one is labeled.
    annotator.wait_for_uploads(2)
    annotator.press("PageDown")
    annotator.page.locator(".thumbnail[aria-current]").and_(
        annotator.page.get_by_label("other.png")
    ).wait_for()
    annotator.wait_until_ready()
    assert annotator.uploads == 2  # now it is known by its hash
    assert annotator.objects() == []
    assert annotator.count("first") == 1  # no mask of the image before
    annotator.click(100, 100)
    annotator.accept()
    assert annotator.count("first") == 2
    annotator.press("PageUp")
    annotator.wait_until_ready()
    assert annotator.objects() == ["object 1"]

    coco = annotator.export_coco()
    assert [image["file_name"] for image in coco["images"]] == ["coins.png", "other.png"]
    assert [each["image_id"] for each in coco["annotations"]] == [1, 2]

    # The same file again is the same image.
    annotator.drop(first)
    expect(annotator.page.locator(".thumbnail")).to_have_count(2)


def test_large_image_is_drawn_from_tiles(annotator: Annotator, tmp_path: Path) -> None:
    columns, rows = np.meshgrid(np.arange(5000), np.arange(3300))
    pixels = np.stack([columns % 256, rows % 256, (columns // 256 + rows // 256) * 8], axis=-1)
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "large.jpg", quality=90)
    annotator.drop(tmp_path / "large.jpg")
    annotator.click(2500, 1600)
    annotator.accept()
    for _ in range(12):
        annotator.press("+")
    before = annotator.page.locator("#stage").screenshot()
    annotator.press("Alt+ArrowRight")
    until(lambda: annotator.page.locator("#stage").screenshot() != before)
    assert annotator.failures == []


def saved(annotator: Annotator) -> Any:
    """The labels that the browser has kept of the only image."""
    annotator.page.get_by_test_id("saving").get_by_text("Saved").wait_for()
    return annotator.page.evaluate(
        """() => new Promise((resolve, reject) => {
          const open = indexedDB.open("samserve");
          open.onerror = () => reject(open.error);
          open.onsuccess = () => {
            const all = open.result.transaction("labels").objectStore("labels").getAll();
            all.onsuccess = () => resolve(all.result[0].content);
          };
        })"""
    )
