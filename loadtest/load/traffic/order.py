"""The order file that tells the load generator what to do."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtest.load.traffic.scenario import Scenario, scenario_of

SAMPLES, GENERATOR, ORDER = "samples.csv", "generator.json", "order.json"


@dataclass(frozen=True, slots=True)
class Order:
    """One load for the generator.

    Attributes:
        scenario: The load.
        decoders: HOST:PORT of each decoder.
        embedding: HOST:PORT of the embedding service.
        watched: Process ids on this machine whose CPU time is recorded, by name.
        folder: Where the generator writes its results.
        bare: HOST:PORT of a decoder with one thread that gets no load, or empty.
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
