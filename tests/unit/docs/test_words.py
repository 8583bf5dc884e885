"""The documents keep to plain English, and to their size."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]


def load(name: str) -> ModuleType:
    """Import a script of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


words = load("words")


def texts() -> dict[str, str]:
    return {str(path.relative_to(ROOT)): path.read_text() for path in words.pages()}


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= words.README_LINES
    assert len(text.split()) <= words.README_WORDS


def test_sentences_are_short() -> None:
    written = [text for name, text in texts().items() if name not in words.GENERATED_PAGES]
    lengths = words.lengths(written)
    assert lengths.sentences > 500
    assert lengths.median <= words.MEDIAN_WORDS
    assert lengths.p90 <= words.P90_WORDS


def test_documents_avoid_forbidden_words() -> None:
    found = {name: words.forbidden(words.written(text)) for name, text in texts().items()}
    assert {name: bad for name, bad in found.items() if bad} == {}


@pytest.mark.parametrize(
    ("pattern", "mark"),
    [
        ("protos/samserve/**/*.proto", "//"),
        ("helm/samserve/**/*.yaml", "#"),
        ("helm/samserve/**/*.tpl", "{{/*"),
        ("deploy/**/*", "#"),
    ],
)
def test_comments_avoid_forbidden_words(pattern: str, mark: str) -> None:
    files = [path for path in ROOT.glob(pattern) if path.is_file()]
    assert files
    found = {str(f.relative_to(ROOT)): words.comments(f.read_text(), mark) for f in files}
    assert {name: bad for name, text in found.items() if (bad := words.forbidden(text))} == {}


def test_docstrings_avoid_forbidden_words() -> None:
    package = ROOT / "services" / "samserve"
    found = {
        str(path.relative_to(package)): words.forbidden(
            "\n".join(words.docstrings(path.read_text()))
        )
        for path in package.rglob("*.py")
        if "v1" not in path.relative_to(package).parts
    }
    assert {name: bad for name, bad in found.items() if bad} == {}


MARKDOWN = """# A heading is not counted

One sentence here. Another, with [a link](somewhere.md) and `some code`.

    indented code is not counted

- An item.
  It goes on.

| a | table |
| --- | --- |

```python
fenced("code")
```

<!-- part -->
Generated text.
<!-- end -->
"""


def test_code_tables_headings_and_generated_parts_are_not_counted() -> None:
    assert words.sentences(MARKDOWN) == [
        "One sentence here.",
        "Another, with a link and `code`.",
        "An item.",
        "It goes on.",
    ]


def test_a_decimal_point_ends_no_sentence() -> None:
    assert words.sentences("It takes 0.24 of the time, i.e. less.") == [
        "It takes 0.24 of the time, i.e. less."
    ]


def test_forbidden_words_are_found_across_a_line_break() -> None:
    assert words.forbidden("It does not live for\n    ever.") == ["for ever"]
    assert words.forbidden("A marshall is a word.") == []
