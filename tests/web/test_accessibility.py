"""The page for everybody: axe-core has no finding in any state, in light and in dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser
from samserve.local.stack import Stack
from web.annotator import Annotator

AXE = Path(__file__).parents[2] / "services/web/node_modules/axe-core/axe.min.js"
COIN = (213.0, 193.0)


def findings(annotator: Annotator) -> list[tuple[str, str, list[str]]]:
    """Rule, impact and places of what axe-core finds."""
    page = annotator.page
    page.wait_for_timeout(300)  # colours fade in
    page.evaluate(AXE.read_text())
    found: Any = page.evaluate("axe.run()")
    return [
        (each["id"], each["impact"], [node["html"][:120] for node in each["nodes"]])
        for each in found["violations"]
    ]


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed: make web")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_axe_finds_nothing(
    browser: Browser, stack: Stack, coins: Path, scheme: Literal["light", "dark"], width: int
) -> None:
    with browser.new_context(
        base_url=stack.addresses.gateway,
        color_scheme=scheme,
        service_workers="block",
        viewport={"width": width, "height": 844},
    ) as context:
        annotator = Annotator.at(context.new_page())
        annotator.button("Open a folder").first.wait_for()
        assert findings(annotator) == []  # before there is an image

        annotator.drop(coins)
        annotator.click(*COIN)
        assert findings(annotator) == []  # a mask in progress

        annotator.accept()
        annotator.press("s")
        annotator.page.locator(".suggestions").wait_for(state="attached")
        if width < 760:
            annotator.page.get_by_role("button", name="Objects").click()
        assert findings(annotator) == []  # objects and suggestions

        annotator.page.locator("#stage").focus()
        for keys, name in (("?", "Keys"), ("Control+e", "Export")):
            annotator.press(keys)
            annotator.page.get_by_role("dialog", name=name).wait_for()
            assert findings(annotator) == []
            annotator.press("Escape")
            annotator.page.get_by_role("dialog").wait_for(state="detached")


def test_every_control_is_reached_by_the_keyboard(annotator: Annotator, coins: Path) -> None:
    annotator.drop(coins)
    annotator.click(*COIN)
    annotator.accept()
    page = annotator.page
    wanted: list[str] = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, [tabindex='0']")]
          .filter((each) => !each.disabled && each.checkVisibility({visibilityProperty: true}))
          .filter((each) => each.type !== "radio" || each.checked)
          .map((each, index) => (each.dataset.order = String(index)))"""
    )
    page.evaluate("document.querySelector('[data-order]').focus()")
    reached = ["0"]
    for _ in wanted[1:]:
        annotator.press("Tab")
        reached.append(page.evaluate("document.activeElement.dataset.order"))
    assert reached == wanted  # all, in the order of the page
