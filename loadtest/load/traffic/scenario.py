"""What a load test does: who comes, what they ask, for how long."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

USERS, SINGLES, CLICKS, VISITS = "users", "singles", "clicks", "visits"
CLOSED = (USERS, SINGLES)  # loops


@dataclass(frozen=True, slots=True)
class Scenario:
    """Times are in seconds, rates in events a second.

    arrivals: "users", a closed loop: `users` annotators, each waiting for its answer before it thinks of the next
    click; "singles", the same with each click on another picture, as the open loop's are; "clicks" or "visits", an open
    loop: they arrive at `rate` by a Poisson process, whether or not those before
    have been answered. A visit is one picture opened by one annotator. Batch jobs come on top of either.
    """

    arrivals: str = USERS
    users: int = 10
    rate: float = 10.0
    seconds: float = 60.0
    settling: float = 3.0  # of the beginning, that is not judged
    seed: int = 0
    timeout: float = 10.0  # of a call
    patience: float = 1.0  # an answer that comes later is no good to anyone
    pictures: int = 20  # known ones; a decoder keeps 26 ready
    zipf: float = 1.0  # the k-th most popular picture is opened in proportion to k ** -zipf
    new: float = 0.0  # share of visits, or of single clicks, whose picture nobody has seen
    objects: float = 4.0  # of a visit, geometric, at least one
    refinements: float = 1.5  # of an object after its first click, geometric, maybe none
    think: float = 1.5  # median of the lognormal pause before a click
    think_sigma: float = 0.7
    batch_jobs: int = 0  # each sends new pictures at PRIORITY_BULK
    batch_in_flight: int = 2  # of each

    def __post_init__(self) -> None:
        if self.arrivals not in (*CLOSED, CLICKS, VISITS):
            raise ValueError(
                f"arrivals is {self.arrivals!r}: give {USERS}, {SINGLES}, {CLICKS} or {VISITS}"
            )
        for name in ("rate", "seconds", "timeout", "patience", "pictures", "objects", "think"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be more than 0")
        if not 0 <= self.new <= 1:
            raise ValueError(f"new is {self.new}: it is a share, 0 to 1")
        if self.settling >= self.seconds:
            raise ValueError(
                f"settling is {self.settling:g} s: it must be less than the load's {self.seconds:g} s"
            )

    @property
    def refining(self) -> float:
        """Share of clicks that refine."""
        return self.refinements / (1 + self.refinements)


def scenario_of(values: dict[str, Any]) -> Scenario:
    """Raises ValueError, naming what is not a scenario's."""
    known = {field.name for field in fields(Scenario)}
    if unknown := sorted(set(values) - known):
        raise ValueError(
            f"a scenario has no {', '.join(unknown)}; it has: {', '.join(sorted(known))}"
        )
    return Scenario(**values)


def read_scenario(file: Path) -> Scenario:
    """From YAML; what is not named is as by default."""
    return scenario_of(yaml.safe_load(file.read_text()) or {})


def as_values(scenario: Scenario) -> dict[str, Any]:
    return asdict(scenario)
