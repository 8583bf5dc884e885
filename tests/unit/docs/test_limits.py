"""The limits that the page and the protos state are the settings' defaults."""

from __future__ import annotations

import re
from pathlib import Path

from samserve.infra.settings import DecoderSettings, EmbeddingSettings, GatewaySettings, variable_of

ROOT = Path(__file__).parents[3]
DEFAULTS = {
    variable_of(name, field): field.default
    for kind in (DecoderSettings, EmbeddingSettings, GatewaySettings)
    for name, field in kind.model_fields.items()
}
UNITS = {"MiB": 2**20, "million": 10**6}


def numbers(text: str) -> list[int]:
    """Return the numbers of a text, in their units."""
    found = re.findall(r"(\d[\d,]*) ?(MiB|million|)", text)
    return [int(digits.replace(",", "")) * UNITS.get(unit, 1) for digits, unit in found]


def test_the_page_states_the_defaults() -> None:
    page = (ROOT / "docs" / "limits.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \|.* `(SAMSERVE_\w+)` \|$", page, re.MULTILINE)
    assert len(rows) > 10
    for limit, variable in rows:
        assert numbers(limit)[0] == DEFAULTS[variable], variable


def test_the_protos_state_the_defaults() -> None:
    stated = {}
    for proto in (ROOT / "protos" / "samserve").rglob("*.proto"):
        text = " ".join(line.strip(" /") for line in proto.read_text().splitlines())
        for before, variable in re.findall(r"([^.()]*)\((SAMSERVE_\w+)\)", text):
            stated[variable] = numbers(before)[-1]
    assert stated == {variable: DEFAULTS[variable] for variable in stated}
    assert len(stated) == 5
