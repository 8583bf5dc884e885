"""Links, file names and commands in the documents exist."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
import typer

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "services" / "samserve"
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"`([\w.-]+(?:/[\w.-]+)*/(?:[\w.-]+\.(?:py|c|h|yaml|json|toml|proto|md))?)`")
DECISION = re.compile(r"decisions/(\d{4})")
NUMBER = re.compile(r"^# (\d{4}): \S")
GENERATED = ("build/",)


def documents() -> list[Path]:
    found = [
        ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
    ]
    for folder in ("docs", "services", "helm", "loadtest", "tests"):
        found += sorted((ROOT / folder).rglob("*.md"))
    return [path for path in found if "node_modules" not in path.parts]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as the repository's pages and MkDocs name them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", document.read_text()), re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("document", documents(), ids=name_of)
def test_relative_links_exist(document: Path) -> None:
    broken = []
    for link in LINK.findall(FENCE.sub("", document.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize(
    "document",
    [p for p in documents() if not {"decisions", "helm", "CHANGELOG.md"} & set(p.parts)],
    ids=name_of,
)
def test_named_files_exist(document: Path) -> None:
    names = FILE.findall(FENCE.sub("", document.read_text()))
    folders = (ROOT, PACKAGE, document.parent)
    assert [
        name
        for name in names
        if not name.startswith(GENERATED) and not any((f / name).exists() for f in folders)
    ] == []


def commands(command: click.Command, path: str) -> list[str]:
    if not isinstance(command, click.Group) and not hasattr(command, "commands"):
        return [path]
    shown = {name: sub for name, sub in command.commands.items() if not sub.hidden}
    return [c for name, sub in shown.items() for c in commands(sub, f"{path} {name}")]


def test_every_command_is_documented() -> None:
    text = (ROOT / "docs" / "command-line.md").read_text()
    from samserve.cli.main import app  # here, so that the other tests need no command line

    known = commands(typer.main.get_command(app), "samserve")
    assert len(known) > 8
    assert [command for command in known if f"`{command}`" not in text] == []


def test_every_decision_is_numbered_dated_and_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text()
    notes = sorted(folder.glob("0*.md"))
    assert len({note.name[:4] for note in notes}) == len(notes) > 0
    for note in notes:
        text = note.read_text()
        title = NUMBER.match(text)
        assert title is not None and title[1] == note.name[:4], note.name
        for part in ("- Date: 20", "- Status: ", "## Context", "## Options", "## Decision"):
            assert part in text, f"{note.name}: {part}"
        assert f"]({note.name})" in index


def test_decisions_named_in_the_code_exist() -> None:
    numbers = {path.name[:4] for path in (ROOT / "docs" / "decisions").glob("0*.md")}
    files = [
        path
        for folder in ("services", "helm", "loadtest", "tests", "deploy", "protos")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".c", ".h", ".yaml", ".tpl", ".proto"}
    ]
    named = {number for path in files for number in DECISION.findall(path.read_text())}
    assert named <= numbers


def test_make_targets_named_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    texts = [path.read_text() for path in documents() if path.name != "CHANGELOG.md"]
    named = {t for text in texts for t in re.findall(r"(?:`|^ {4})make ([a-z]+)", text, re.M)}
    assert "demo" in named
    assert named <= targets
