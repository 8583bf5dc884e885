"""A browser on the page of a real stack; skipped without Chromium or the built page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ViewportSize, sync_playwright
from samserve.gateway.page import BUILT, INDEX
from samserve.local.stack import Stack, StackOptions
from stacks import client, patience, started
from web.annotator import Annotator

__all__ = ["client", "patience"]

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


VIEWPORT: ViewportSize = {"width": 1280, "height": 800}


def chromium() -> str:
    """The path of Chromium; skips if there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("the page's tests need Chromium: apt-get install chromium")
    return found


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    path = chromium()
    if not (BUILT / INDEX).exists():
        pytest.skip("the page is not built: make web")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def stack(
    browser: Browser, patience: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    with started(StackOptions(), tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture
def context(browser: Browser, stack: Stack) -> Iterator[BrowserContext]:
    """A browser that has kept nothing, without the service worker, which would hide requests."""
    context = browser.new_context(
        viewport=VIEWPORT, base_url=stack.addresses.gateway, service_workers="block"
    )
    yield context
    context.close()


@pytest.fixture
def offline(browser: Browser, stack: Stack) -> Iterator[BrowserContext]:
    """A browser with the page's service worker."""
    context = browser.new_context(viewport=VIEWPORT, base_url=stack.addresses.gateway)
    yield context
    context.close()


@pytest.fixture
def annotator(context: BrowserContext) -> Annotator:
    """A person at the page."""
    return Annotator.at(context.new_page())


@pytest.fixture(scope="session")
def coins() -> Path:
    return Path(__file__).parents[2] / "examples" / "coins.png"
