"""The simulation's input: service times measured with one user, or with a few."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Decode:
    """Times of one kind of click in the decoder's pool, from decode to written mask.

    Attributes:
        one: Milliseconds with one thread, ascending.
        every: Milliseconds with all threads of the decoder, ascending.
        every_cpu: Mean CPU milliseconds with all threads.
    """

    one: list[float]
    every: list[float]
    every_cpu: float


@dataclass(frozen=True, slots=True)
class Heat:
    """How much quicker a click is soon after another one of the same decoder.

    Attributes:
        hot: Share of the time saved right after another click.
        cooling: Milliseconds after which the saving has dropped to 1/e.
    """

    hot: float
    cooling: float

    def factor(self, milliseconds: float) -> float:
        """Return the time of a click relative to one after a long pause.

        Args:
            milliseconds: Time since the last click ended; 0 if it is still in progress.
        """
        return 1 - self.hot * math.exp(-milliseconds / self.cooling)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measured service times. In milliseconds and for clicks after a long pause, unless noted.

    Attributes:
        machine: Processor, cores and Python version, for reports.
        cores: Cores of the measured machine.
        threads: Threads of the measured decoder.
        bare: The decode of one thread, which each load measures before and after. It tells how
            fast the machine is at the time.
        heat: The saving of clicks in quick succession.
        crowded: Speed of a core while all cores are busy, relative to one busy core.
        first: Times of first clicks.
        refine: Times of refining clicks.
        decoder_rpc: CPU time of the decoder per click, without the decode.
        generator: CPU time of the load generator per click.
        on_path: Share of these two that the caller waits for.
        wire: Delay without CPU time.
        prepare: Preparation of an image.
        get: Redis read and unpacking of an entry.
        entry_bytes: Size of an entry.
        encode: Encode by batch size, with all cores.
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


def write_calibration(calibration: Calibration, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(calibration), indent=1) + "\n")


def read_calibration(file: Path) -> Calibration:
    """Read a calibration; raises FileNotFoundError with the command that writes it."""
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
