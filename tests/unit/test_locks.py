"""The hashes of packages fit their versions and the extras that need them."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "requirements"


def load() -> ModuleType:
    """Import the script, which is in no package."""
    spec = importlib.util.spec_from_file_location("lock", FOLDER / "lock.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


lock = load()
every_set = pytest.mark.parametrize("name", lock.SETS)
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)", re.MULTILINE)


def pinned(text: str) -> dict[str, str]:
    return {canonicalize_name(name): version for name, version in PINNED.findall(text)}


@every_set
def test_every_package_has_hashes(name: str) -> None:
    text = (FOLDER / f"{name}.txt").read_text()
    entries = re.split(r"\n(?=\S)", text.split("\n", 1)[1].strip())
    assert len(entries) == len(pinned(text)) > 5
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)


@every_set
def test_versions_are_those_of_the_constraints(name: str) -> None:
    constraints = pinned((ROOT / "constraints.txt").read_text())
    locked = pinned((FOLDER / f"{name}.txt").read_text())
    assert {p: v for p, v in locked.items() if constraints.get(p, v) != v} == {}


@every_set
def test_what_the_extras_name_is_locked(name: str) -> None:
    locked = pinned((FOLDER / f"{name}.txt").read_text())
    needed: list[Requirement] = list(lock.requirements(lock.SETS[name]))
    assert {
        str(each)
        for each in needed
        if not each.specifier.contains(locked.get(canonicalize_name(each.name), "0"))
    } == set()


def test_torch_is_not_locked_nor_what_only_it_needs() -> None:
    for name in lock.SETS:
        locked = pinned((FOLDER / f"{name}.txt").read_text())
        assert not [each for each in locked if each == "torch" or each.startswith("nvidia-")]


def test_the_page_of_licences_has_every_package() -> None:
    page = (ROOT / "docs" / "licences.md").read_text()
    for name, version in PINNED.findall((FOLDER / "local.txt").read_text()):
        assert f"| {name} | {version} |" in page
