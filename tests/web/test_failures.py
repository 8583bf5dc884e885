"""What fails is a sentence on the page, and nothing of the work is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Request, Route
from web.annotator import Annotator

COIN = (213.0, 193.0)
OTHER_COIN = (52.0, 50.0)


@pytest.fixture
def labeled(annotator: Annotator, coins: Path) -> Annotator:
    """A page with one object and a draft."""
    annotator.drop(coins)
    annotator.click(*COIN)
    annotator.accept()
    annotator.click(*OTHER_COIN)
    return annotator


def check_nothing_is_lost(annotator: Annotator) -> None:
    assert annotator.objects() == ["object 1"]
    annotator.accept()  # the draft is still there
    assert len(annotator.export_coco()["annotations"]) == 2
    assert annotator.failures == []


def problem(status: int, code: str, detail: str) -> Callable[[Route], None]:
    """Answer as the gateway does when it fails."""
    body = json.dumps({"detail": detail, "code": code, "status": status})

    def answer(route: Route) -> None:
        route.fulfill(status=status, body=body, content_type="application/problem+json")

    return answer


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", b"no image"),
        ("broken.png", b"\x89PNG\r\n\x1a\n" + bytes(100)),
        ("empty.jpg", b""),
    ],
)
def test_bad_file_is_named_and_the_image_before_stays(
    labeled: Annotator, name: str, content: bytes
) -> None:
    labeled.drop((name, content), wait=False)
    assert name in labeled.wait_for_sentence(f"“{name}” is damaged")
    labeled.wait_until_ready()
    check_nothing_is_lost(labeled)


def test_image_that_the_server_refuses_says_why(labeled: Annotator, coins: Path) -> None:
    labeled.page.route(
        "**/v1/images?*", problem(400, "INVALID_INPUT", "image: 50,000,000 pixels; the limit is 40")
    )
    labeled.drop(("other.png", coins.read_bytes() + b" "), wait=False)
    labeled.wait_for_sentence("Image: 50,000,000 pixels; the limit is 40")
    labeled.page.unroute("**/v1/images?*")
    labeled.button("Try again").click()
    labeled.wait_until_ready()
    labeled.press("PageUp")
    labeled.page.locator("[data-object]").wait_for()
    labeled.wait_until_ready()
    check_nothing_is_lost(labeled)


def test_server_that_goes_away_is_waited_for(annotator: Annotator, coins: Path) -> None:
    annotator.drop(coins)
    annotator.choose_place("the server")
    annotator.click(*COIN)
    annotator.accept()

    annotator.page.route("**/v1/**", lambda route: route.abort("connectionrefused"))
    annotator.page.mouse.click(*annotator.window(*OTHER_COIN))
    assert "your work is kept" in annotator.wait_for_sentence("The server")
    assert annotator.objects() == ["object 1"]

    annotator.page.unroute("**/v1/**")
    check_nothing_is_lost(annotator)


def test_server_that_is_away_when_an_image_is_dropped_is_waited_for(
    annotator: Annotator, coins: Path
) -> None:
    annotator.page.route("**/v1/**", lambda route: route.abort("connectionrefused"))
    annotator.drop(coins, wait=False)
    annotator.wait_for_sentence("The server")
    annotator.page.unroute("**/v1/**")
    annotator.wait_until_ready()
    annotator.click(*COIN)
    annotator.accept()
    assert annotator.failures == []


def test_busy_server_is_asked_again(annotator: Annotator, coins: Path) -> None:
    annotator.page.route(
        "**/v1/images?*", problem(429, "OVERLOADED", "the encoder is busy; try again"), times=2
    )
    annotator.drop(coins)
    annotator.click(*COIN)
    annotator.accept()
    assert annotator.failures == []


def test_model_that_changes_is_followed(annotator: Annotator, coins: Path) -> None:
    annotator.drop(coins)
    annotator.choose_place("the server")
    annotator.click(*COIN)
    annotator.accept()
    annotator.click(*OTHER_COIN)

    answer = problem(409, "MODEL_VERSION_MISMATCH", "embedded by another version")
    annotator.page.route("**/v1/images/*/masks*", answer, times=1)
    annotator.page.mouse.click(*annotator.window(60, 60))
    annotator.wait_for_sentence("The server has another version of the model")
    annotator.wait_until_ready()
    check_nothing_is_lost(annotator)


def test_sweep_that_fails_says_why(labeled: Annotator) -> None:
    labeled.page.route(
        "**/v1/images/*/everything", problem(503, "UNAVAILABLE", "the decoder is not reachable")
    )
    labeled.press("g")
    labeled.wait_for_sentence("The decoder is not reachable")
    check_nothing_is_lost(labeled)


@pytest.mark.parametrize("content", [b"{}", b"not JSON"])
def test_bad_annotations_are_refused_in_a_sentence(labeled: Annotator, content: bytes) -> None:
    labeled.press("Control+e")
    with labeled.page.expect_file_chooser() as chooser:
        labeled.button("Import COCO").click()
    chooser.value.set_files({"name": "a.json", "mimeType": "application/json", "buffer": content})
    labeled.wait_for_sentence("“a.json” was not imported")
    labeled.press("Escape")
    check_nothing_is_lost(labeled)


def test_export_without_objects_says_so(annotator: Annotator, coins: Path) -> None:
    annotator.drop(coins)
    annotator.press("Control+e")
    annotator.button("Export").last.click()
    annotator.wait_for_sentence("There are no objects to export yet")


def test_page_sends_nothing_to_other_servers(annotator: Annotator, coins: Path) -> None:
    hosts: set[str] = set()

    def note(request: Request) -> None:
        if not request.url.startswith(("blob:", "data:")):
            hosts.add(request.url.split("/")[2])

    annotator.page.on("request", note)
    annotator.page.reload()
    annotator.drop(coins)
    annotator.click(*COIN)
    assert hosts == {annotator.page.url.split("/")[2]}
