"""Leaves out the test files that need torch, where it is not installed (`make test TORCH=0`)."""

from __future__ import annotations

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
TORCH = ("torch", "transformers", "samserve.export", "samserve.training")
WITHOUT_TORCH = ("samserve.export.catalog", "samserve.export.download")

skipped: list[Path] = []


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """pytest's hook; a folder counts as its conftest.py."""
    file = collection_path / "conftest.py" if collection_path.is_dir() else collection_path
    if find_spec("torch") is not None or file.suffix != ".py" or not file.is_file():
        return None
    if not needs_torch(file):
        return None

    skipped.append(collection_path)
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """pytest's hook: name the files that were left out."""
    if skipped:
        names = ", ".join(str(path.relative_to(TESTS)) for path in skipped)
        terminalreporter.write_line(
            f"not run, since torch is not installed (make setup TORCH=1): {names}"
        )


@cache
def needs_torch(file: Path) -> bool:
    """Whether the file, or a helper of the tests that it imports, imports torch."""
    for name in _imports(file):
        if name.startswith(TORCH) and not name.startswith(WITHOUT_TORCH):
            return True

        helper = TESTS / f"{name.replace('.', '/')}.py"
        if helper.is_file() and helper != file and needs_torch(helper):
            return True

    return False


def _imports(file: Path) -> list[str]:
    names = []
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return names
