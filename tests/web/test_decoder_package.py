"""The npm package @samserve/decoder: its types, its tests, its masks against the server's."""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Any

import pytest
from web.fixtures import write_fixtures

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def build() -> dict[str, Any]:
    """The functions of services/web/build.py."""
    functions = runpy.run_path(str(ROOT / "services" / "web" / "build.py"))
    if not (ROOT / "services/web/node_modules").exists() or not functions["WASM"].exists():
        pytest.skip("the page is not built; `make web` builds it")
    return functions


def test_package_and_page_have_the_right_types(build: dict[str, Any]) -> None:
    build["npm_run"]("check")


def test_package_gives_the_masks_that_the_server_gives(
    build: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fixtures(tmp_path)
    monkeypatch.setitem(os.environ, "SAMSERVE_FIXTURES", str(tmp_path))
    build["npm_run"]("test")
