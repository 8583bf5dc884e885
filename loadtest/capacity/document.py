"""Puts what was measured and planned into docs/capacity.md, between its markers: `python -m loadtest.capacity.document`.

Reads calibration.json, capacity-1.json, capacity-2.json, check.json and plan.md of build/load; a part whose file is not
there is left as it stands.
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
    for name, file, write in (
        ("calibration", "calibration.json", calibration),
        ("capacity-1", "capacity-1.json", capacity),
        ("capacity-2", "capacity-2.json", capacity),
        ("check", "check.json", check),
        ("plan", "plan.md", str),
    ):
        source = FOLDER / file
        if source.exists():
            read: Callable[[str], Any] = json.loads if source.suffix == ".json" else str
            text = put(text, name, write(read(source.read_text())))
            print(f"{name}: from {source}")
        else:
            print(f"{name}: left as it is, since {source} is not there")
    DOCUMENT.write_text(text)


def put(text: str, name: str, part: str) -> str:
    """The text with another part between `<!-- name -->` and `<!-- end -->`. Raises ValueError if there is no place."""
    place = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    found, count = place.subn(lambda match: f"{match[1]}\n{part.strip()}\n\n{match[2]}", text)
    if count != 1:
        raise ValueError(f"there must be one place marked <!-- {name} -->, not {count}")
    return found


def calibration(found: dict[str, Any]) -> str:
    median = statistics.median
    rows = [
        ("decode and mask, first click, one thread", median(found["first"]["one"]), "ms"),
        (f"the same, {found['threads']} threads", median(found["first"]["every"]), "ms"),
        ("decode and mask, refining click, one thread", median(found["refine"]["one"]), "ms"),
        (f"the same, {found['threads']} threads", median(found["refine"]["every"]), "ms"),
        ("bare decode: one thread, 50 ms apart, without its mask", found["bare"], "ms"),
        ("how much less a click takes right after another", found["heat"]["hot"], "of 1"),
        ("cooling, by which that passes", found["heat"]["cooling"], "ms"),
        (
            "speed of a core while all are busy, by the clicks of three users",
            found["crowded"],
            "of 1",
        ),
        ("processor time of the decoder besides, a click", found["decoder_rpc"], "ms"),
        ("processor time of the load's generator, a click", found["generator"], "ms"),
        ("how much of these two a caller waits for", found["on_path"], "of 1"),
        ("waiting on the wire", found["wire"], "ms"),
        ("an image made ready", found["prepare"], "ms"),
        ("an entry read from Redis and unpacked", found["get"], "ms"),
        *((f"encode of {batch}, all cores", ms, "ms") for batch, ms in found["encode"].items()),
    ]
    head = [
        f"{found['machine']['processor']}, {found['cores']} cores.",
        "",
        "| service time | | |",
        "| --- | ---: | --- |",
    ]
    return "\n".join([*head, *(f"| {name} | {value:.2f} | {unit} |" for name, value, unit in rows)])


def capacity(found: dict[str, Any]) -> str:
    lines = [
        f"Ceiling {found['ceiling']:.1f}, capacity {found['capacity']:.1f} clicks a second.",
        "",
        "| load | clicks/s | threshold | |",
        "| --- | ---: | --- | --- |",
    ]
    for section in ("normal", "overload"):
        for line in found[section]["verdict"]:
            word, rest = line.split("  ", 1)
            lines.append(f"| {section} | {found[section]['rate']:.1f} | {rest} | {word} |")
    return "\n".join(lines)


def check(found: dict[str, Any]) -> str:
    head = [
        "| decoders | clicks/s | | measured ms | bare decode | predicted ms | bare decode | off |",
        "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    return "\n".join(
        [
            *head,
            *(
                f"| {r['decoders']} | {r['rate']:.1f} | {r['percentile']} | {r['measured']:.1f} | {r['bare']:.1f} "
                f"| {r['predicted']:.1f} | {r['calibrated']:.1f} | {100 * r['off']:+.1f}% |"
                for r in found["rows"]
            ),
        ]
    )


if __name__ == "__main__":
    main()
