"""Writes measurements and plans into docs/capacity.md: `python -m loadtest.capacity.document`.

Reads calibration.json, capacity-1.json, capacity-2.json, check.json and plan.md from build/load.
Each replaces the text between its markers; a part without a file stays as it is.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER, DOCUMENT = Path("build/load"), Path("docs/capacity.md")


def main() -> None:
    text = DOCUMENT.read_text()

    for name, file, render in (
        ("calibration", "calibration.json", calibration),
        ("capacity-1", "capacity-1.json", capacity),
        ("capacity-2", "capacity-2.json", capacity),
        ("check", "check.json", check),
        ("plan", "plan.md", str),
    ):
        source = FOLDER / file
        if source.exists():
            parse: Callable[[str], Any] = json.loads if source.suffix == ".json" else str
            text = put(text, name, render(parse(source.read_text())))
            print(f"{name}: written from {source}")
        else:
            print(f"{name}: unchanged; {source} not found")

    DOCUMENT.write_text(text)


def put(text: str, name: str, part: str) -> str:
    """Replace the text between `<!-- name -->` and `<!-- end -->`.

    Raises:
        ValueError: The text does not have exactly one such marker.
    """
    marker = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    result, count = marker.subn(lambda match: f"{match[1]}\n{part.strip()}\n\n{match[2]}", text)

    if count != 1:
        raise ValueError(f"expected one marker <!-- {name} -->, found {count}")
    return result


def calibration(values: dict[str, Any]) -> str:
    median = statistics.median
    threads = values["threads"]
    first, refine = values["first"], values["refine"]

    rows = [
        ("decode and mask, first click, one thread", median(first["one"]), "ms"),
        (f"decode and mask, first click, {threads} threads", median(first["every"]), "ms"),
        ("decode and mask, refining click, one thread", median(refine["one"]), "ms"),
        (f"decode and mask, refining click, {threads} threads", median(refine["every"]), "ms"),
        ("bare decode: one thread, clicks 50 ms apart, without the mask", values["bare"], "ms"),
        ("share of time saved right after another click", values["heat"]["hot"], "ratio"),
        ("time constant of that saving", values["heat"]["cooling"], "ms"),
        ("core speed while all cores are busy, from three users", values["crowded"], "ratio"),
        ("CPU time of the decoder per click, without the decode", values["decoder_rpc"], "ms"),
        ("CPU time of the load generator per click", values["generator"], "ms"),
        ("share of these two that the caller waits for", values["on_path"], "ratio"),
        ("delay without CPU time", values["wire"], "ms"),
        ("preparation of an image", values["prepare"], "ms"),
        ("Redis read and unpacking of an entry", values["get"], "ms"),
        *((f"encode of {batch}, all cores", ms, "ms") for batch, ms in values["encode"].items()),
    ]

    head = [
        f"{values['machine']['processor']}, {values['cores']} cores.",
        "",
        "| service time | | |",
        "| --- | ---: | --- |",
    ]
    return "\n".join([*head, *(f"| {name} | {value:.2f} | {unit} |" for name, value, unit in rows)])


def capacity(values: dict[str, Any]) -> str:
    lines = [
        f"Ceiling {values['ceiling']:.1f}, capacity {values['capacity']:.1f} clicks per second.",
        "",
        "| load | clicks/s | threshold | |",
        "| --- | ---: | --- | --- |",
    ]

    for section in ("normal", "overload"):
        for line in values[section]["verdict"]:
            word, rest = line.split("  ", 1)
            lines.append(f"| {section} | {values[section]['rate']:.1f} | {rest} | {word} |")

    return "\n".join(lines)


def check(values: dict[str, Any]) -> str:
    head = [
        "| decoders | clicks/s | | measured ms | bare decode "
        "| predicted ms | bare decode | error |",
        "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows = [
        f"| {row['decoders']} | {row['rate']:.1f} | {row['percentile']} "
        f"| {row['measured']:.1f} | {row['bare']:.1f} "
        f"| {row['predicted']:.1f} | {row['calibrated']:.1f} | {100 * row['off']:+.1f}% |"
        for row in values["rows"]
    ]
    return "\n".join([*head, *rows])


if __name__ == "__main__":
    main()
