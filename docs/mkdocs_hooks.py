"""Hooks for MkDocs: pages from the repository's root, and links to files outside docs.

A link to another file of the repository becomes a link to `repo_url`, or plain text if
mkdocs.yml sets none.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

log = logging.getLogger("mkdocs.hooks.links")

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ROOT_PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}

_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
_EXTERNAL = re.compile(r"^([a-z]+:|#)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are kept at the repository's root."""
    for source, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrite the links of one page."""
    names = {page_name: ROOT / source for source, page_name in ROOT_PAGES.items()}
    source = names.get(page.file.src_uri, DOCS / page.file.src_uri)

    def rewrite(match: re.Match[str]) -> str:
        text, link = match.groups()
        if _EXTERNAL.match(link):
            return match[0]
        return _rewrite(text, link, source, DOCS / page.file.src_uri, config.repo_url)

    return _LINK.sub(rewrite, markdown)


def _rewrite(text: str, link: str, source: Path, place: Path, repo_url: str | None) -> str:
    """Rewrite a relative link.

    Args:
        text: The link's text.
        link: The link as written.
        source: The file that holds the link.
        place: Where the site has that file, as a path under docs.
        repo_url: Address of the repository's pages, if there is one.
    """
    path, _, anchor = link.partition("#")
    target = Path(os.path.normpath(source.parent / path))
    if not target.exists():
        log.warning("%s: link to a missing file: %s", source.relative_to(ROOT), link)
        return text

    name = target.relative_to(ROOT).as_posix()
    if name in ROOT_PAGES:
        target = DOCS / ROOT_PAGES[name]
    elif name == "README.md":
        target = DOCS / "index.md"
    elif not target.is_relative_to(DOCS) or target.suffix == ".py":
        return f"[{text}]({repo_url.rstrip('/')}/blob/main/{name})" if repo_url else text

    inside = os.path.relpath(target, place.parent)
    return f"[{text}]({inside}{'#' + anchor if anchor else ''})"
