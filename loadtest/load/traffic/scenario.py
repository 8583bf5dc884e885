"""Load scenarios: the users, their requests and the duration."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

USERS, SINGLES, CLICKS, VISITS = "users", "singles", "clicks", "visits"
CLOSED = (USERS, SINGLES)  # closed loops


@dataclass(frozen=True, slots=True)
class Scenario:
    """A load. Times are in seconds, rates in events per second.

    A visit is one image opened by one annotator. Batch jobs run beside any kind of arrivals.

    Attributes:
        arrivals: "users" is a closed loop: each annotator waits for its answer and thinks before
            the next click. "singles" is the same, with each click on another image. "clicks" and
            "visits" are open loops: they arrive at `rate` by a Poisson process, even if earlier
            ones are still in flight.
        users: Annotators of a closed loop.
        rate: Arrivals of an open loop.
        seconds: Duration.
        settling: Initial part that is not judged.
        seed: Seed of all random choices.
        timeout: Deadline of a call.
        patience: An answer after this time does not count as goodput.
        pictures: Number of known images; a decoder keeps 26 prepared.
        zipf: The k-th most popular image is opened in proportion to k ** -zipf.
        new: Share of visits, or of single clicks, with an image that was never sent before.
        objects: Mean objects per visit; geometric, at least one.
        refinements: Mean refinements per object after its first click; geometric, may be none.
        think: Median of the lognormal pause before a click.
        think_sigma: Sigma of that pause.
        batch_jobs: Jobs that send new images at PRIORITY_BULK.
        batch_in_flight: Images in flight per job.
    """

    arrivals: str = USERS
    users: int = 10
    rate: float = 10.0
    seconds: float = 60.0
    settling: float = 3.0
    seed: int = 0
    timeout: float = 10.0
    patience: float = 1.0
    pictures: int = 20
    zipf: float = 1.0
    new: float = 0.0
    objects: float = 4.0
    refinements: float = 1.5
    think: float = 1.5
    think_sigma: float = 0.7
    batch_jobs: int = 0
    batch_in_flight: int = 2

    def __post_init__(self) -> None:
        if self.arrivals not in (*CLOSED, CLICKS, VISITS):
            raise ValueError(
                f"invalid arrivals {self.arrivals!r}; "
                f"available: {USERS}, {SINGLES}, {CLICKS}, {VISITS}"
            )

        for name in ("rate", "seconds", "timeout", "patience", "pictures", "objects", "think"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be greater than 0")

        if not 0 <= self.new <= 1:
            raise ValueError(f"new is {self.new}; it must be a share from 0 to 1")

        if self.settling >= self.seconds:
            raise ValueError(
                f"settling is {self.settling:g} s; "
                f"it must be shorter than the load, {self.seconds:g} s"
            )

    @property
    def refining(self) -> float:
        """Share of clicks that refine."""
        return self.refinements / (1 + self.refinements)


def scenario_of(values: dict[str, Any]) -> Scenario:
    """Raises ValueError for unknown fields."""
    known = {field.name for field in fields(Scenario)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(
            f"unknown scenario fields: {', '.join(unknown)}; available: {', '.join(sorted(known))}"
        )
    return Scenario(**values)


def read_scenario(file: Path) -> Scenario:
    """Read a scenario from YAML; missing fields have their defaults."""
    return scenario_of(yaml.safe_load(file.read_text()) or {})
