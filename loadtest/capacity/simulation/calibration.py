"""What the simulation knows of the service: service times measured when nobody else is there, or few are."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Decode:
    """Milliseconds of one kind of click in the decoder's pool, decoded and its mask written: with one thread, and
    with all threads of the decoder, both ascending, and the processor time that the latter takes.
    """

    one: list[float]
    every: list[float]
    every_cpu: float


@dataclass(frozen=True, slots=True)
class Heat:
    """A click soon after another of the same decoder is quicker: less by a share `hot` right after it, by 1/e of that
    after `cooling` milliseconds.
    """

    hot: float
    cooling: float

    def factor(self, milliseconds: float) -> float:
        """Of the time that a click takes after a long rest, when the last one ended so long before; 0: has not yet."""
        return 1 - self.hot * math.exp(-milliseconds / self.cooling)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Milliseconds, unless it says otherwise; of clicks after a long rest.

    cores: of the machine it was measured on; threads: of a decoder. bare: the decode of one thread that each load
    measures before and after, by which a machine's speed is known. crowded: the speed of a core while all are busy, of
    1. decoder_rpc, generator: processor time a click costs the decoder besides the decode, and the load's generator.
    on_path: how much of these two a caller waits for, of 1. wire: pure delay. prepare: an image made ready; get: its
    entry read from Redis and unpacked; entry_bytes: its size. encode: by batch, with all cores.
    """

    machine: dict[str, Any]
    cores: int
    threads: int
    bare: float
    heat: Heat
    crowded: float
    first: Decode
    refine: Decode
    decoder_rpc: float
    generator: float
    on_path: float
    wire: float
    prepare: float
    get: float
    entry_bytes: int
    encode: dict[int, float]


def write_calibration(found: Calibration, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(found), indent=1) + "\n")


def read_calibration(file: Path) -> Calibration:
    """Raises FileNotFoundError with what to do."""
    if not file.exists():
        raise FileNotFoundError(f"{file} not found; run `python -m loadtest.capacity.calibrate`")
    values = json.loads(file.read_text())
    return Calibration(
        **{
            **values,
            "heat": Heat(**values["heat"]),
            "first": Decode(**values["first"]),
            "refine": Decode(**values["refine"]),
            "encode": {int(batch): ms for batch, ms in values["encode"].items()},
        }
    )
