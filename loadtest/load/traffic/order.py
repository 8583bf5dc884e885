"""What the generator is asked to do, as a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtest.load.traffic.scenario import Scenario, scenario_of

SAMPLES, GENERATOR, ORDER = "samples.csv", "generator.json", "order.json"


@dataclass(frozen=True, slots=True)
class Order:
    """decoders, embedding: HOST:PORT. watched: processes of this machine whose time is to be noted, by name. folder:
    for what comes of it. bare: HOST:PORT of a decoder of one thread that gets no load, or empty.
    """

    scenario: Scenario
    decoders: tuple[str, ...]
    embedding: str
    watched: dict[str, int]
    folder: Path
    bare: str = ""


def write_order(order: Order) -> Path:
    order.folder.mkdir(parents=True, exist_ok=True)
    file = order.folder / ORDER
    file.write_text(json.dumps(asdict(order), indent=1, default=str) + "\n")
    return file


def read_order(file: Path) -> Order:
    values = json.loads(file.read_text())
    return Order(
        scenario_of(values["scenario"]),
        tuple(values["decoders"]),
        values["embedding"],
        values["watched"],
        Path(values["folder"]),
        values["bare"],
    )
