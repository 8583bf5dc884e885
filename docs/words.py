"""Measures the language of the documents: sentence lengths, forbidden words. Pure.

`python docs/words.py` prints the figures and the longest sentences.
"""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

README_LINES = 120
README_WORDS = 900
MEDIAN_WORDS = 14
P90_WORDS = 26

FORBIDDEN = (
    "lest",
    "anew",
    "thereof",
    "whoever",
    "whatsoever",
    "for ever",
    "shall",
    "dear",
    "besides",
    "is to be had",
    "has come to",
    "goes on without",
)
GENERATED_PAGES = ("docs/configuration.md", "docs/licences.md")

_FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
_GENERATED = re.compile(r"^<!-- (?!end)[\w-]+ -->$.*?^<!-- end -->$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_CODE = re.compile(r"`[^`]*`")
_ITEM = re.compile(r"^\s*([-*+]|\d+\.)\s+")
_END = re.compile(r"(?<=[.!?])[\"')*_]*\s+(?=[\"'(*_]*[A-Z0-9`])")
_WORD = re.compile(r"[^\W_]")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Sentence lengths of a set of documents.

    Attributes:
        sentences: Their number.
        median: Words in the median sentence.
        p90: Words that nine sentences in ten do not exceed.
    """

    sentences: int
    median: float
    p90: float


def pages() -> list[Path]:
    """The Markdown files a reader is pointed to: README, CONTRIBUTING and docs."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def written(markdown: str) -> str:
    """A document without the parts that a script generates between markers."""
    return _GENERATED.sub("", markdown)


def prose(markdown: str) -> list[str]:
    """The paragraphs and list items of a document, without code, tables and headings."""
    text = _COMMENT.sub("", _FENCE.sub("", written(markdown)))

    blocks: list[str] = []
    lines: list[str] = []
    for line in [*text.splitlines(), ""]:
        code = line.startswith("    ") and not lines
        item = _ITEM.match(line)

        if not line.strip() or code or item or line.startswith(("|", "#")):
            if lines:
                blocks.append(" ".join(lines))
            lines = [line[item.end() :]] if item and not code else []
        else:
            lines.append(line.strip())

    return [_LINK.sub(r"\1", _IMAGE.sub("", block)) for block in blocks]


def sentences(markdown: str) -> list[str]:
    """The sentences of a document. A code span counts as one word."""
    parts = [part for block in prose(markdown) for part in _END.split(_CODE.sub("`code`", block))]
    return [part for part in parts if count_words(part)]


def count_words(sentence: str) -> int:
    """Words that hold a letter or a digit."""
    return sum(_WORD.search(word) is not None for word in sentence.split())


def lengths(documents: list[str]) -> Lengths:
    """Measure the sentences of several documents together."""
    counts = sorted(count_words(s) for text in documents for s in sentences(text))
    return Lengths(len(counts), statistics.median(counts), counts[int(0.9 * (len(counts) - 1))])


def forbidden(text: str) -> list[str]:
    """The forbidden words in a text, in lower case."""
    pattern = r"\b(" + "|".join(map(re.escape, FORBIDDEN)) + r")\b"
    return re.findall(pattern, " ".join(text.lower().split()))


def comments(text: str, mark: str) -> str:
    """What follows `mark` in each line of a proto, a YAML file or a Dockerfile."""
    return "\n".join(line.split(mark, 1)[1] for line in text.splitlines() if mark in line)


def docstrings(source: str) -> Iterator[str]:
    """The docstrings of a Python module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def main() -> None:
    every: list[tuple[int, Path, str]] = []
    for path in pages():
        text = path.read_text()
        if str(path.relative_to(ROOT)) in GENERATED_PAGES:
            continue
        measured = [(count_words(s), path.relative_to(ROOT), s) for s in sentences(text)]
        every += measured
        if measured:
            length = lengths([text])
            print(f"{path.relative_to(ROOT)!s:60} {length.median:5g} {length.p90:5g}")

    counts = sorted(count for count, _, _ in every)
    print(f"all: {len(counts)} sentences, median {statistics.median(counts):g}, ", end="")
    print(f"p90 {counts[int(0.9 * (len(counts) - 1))]}")
    for count, name, sentence in sorted(every, key=lambda one: -one[0])[:20]:
        print(f"{count:4} {name}: {sentence}")


if __name__ == "__main__":
    main()
