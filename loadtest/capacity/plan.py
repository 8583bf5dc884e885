"""What 10^6, 10^8 and 10^9 images a day need: `python -m loadtest.capacity.plan`. Under a minute.

Needs build/load/calibration.json (loadtest/capacity/calibrate.py); what cannot be measured here is assumed in assumptions.yaml.
Prints the tables of docs/capacity.md as Markdown, and writes them to build/load/plan.md and plan.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path

import yaml

from loadtest.capacity.fleet import Assumptions, Plan, RateOfOne, plan
from loadtest.capacity.simulate import FOLDER, rate_of_one
from loadtest.capacity.simulation.calibration import Calibration, read_calibration
from loadtest.capacity.simulation.model import Demand, System
from loadtest.load.traffic.scenario import Scenario

SIZES = (1e6, 1e8, 1e9)
STEPS = 10  # shares of ready images are rounded down to so many, to simulate few


def decoder_rate(assumed: Assumptions, known: Calibration) -> RateOfOne:
    """Clicks a second of one decoder within the target, by the share of clicks whose image it has ready."""
    system = System(threads=known.threads, together=False)
    target = assumed["demand"]["target_p95_ms"]

    @cache
    def rate(ready: int) -> float:
        share = ready / STEPS
        demand = Demand(
            1, settling=10, refining=Scenario().refining, resident=share, redis=1 - share
        )
        found = rate_of_one(system, demand, target, known)
        if not found:
            raise ValueError(
                f"a click alone takes longer than {target:g} ms on this machine: raise target_p95_ms"
            )
        return found

    return lambda ready: rate(int(ready * STEPS + 1e-9))


def table(plans: list[Plan]) -> str:
    """A row a quantity, a column a size."""

    def cost_of(part: str) -> Callable[[Plan], str]:
        return lambda p: f"{p.cost[part]:,.0f}"

    rows: list[tuple[str, Callable[[Plan], str]]] = [
        ("new images a second at the peak", lambda p: f"{p.encodes:,.0f}"),
        ("clicks a second at the peak", lambda p: f"{p.clicks:,.0f}"),
        ("GPUs", lambda p: f"{p.gpus:,}"),
        ("embedding replicas", lambda p: f"{p.replicas:,}"),
        ("decoders, clicks in turn", lambda p: f"{p.decoders_in_turn:,}"),
        ("decoders, clicks affine", lambda p: f"{p.decoders_affine:,}"),
        (
            "clicks that find the image ready, in turn / affine",
            lambda p: f"{p.ready_in_turn:.2f} / {p.ready_affine:.2f}",
        ),
        ("memory of a decoder for ready images, GB", lambda p: f"{p.ready_bytes / 1e9:,.1f}"),
        ("Redis, GB", lambda p: f"{p.redis_bytes / 1e9:,.0f}"),
        (
            "Redis shards, in turn / affine",
            lambda p: f"{p.redis_shards_in_turn:,} / {p.redis_shards_affine:,}",
        ),
        (
            "from Redis, GB/s, in turn / affine",
            lambda p: f"{p.redis_out_in_turn / 1e9:,.2f} / {p.redis_out_affine / 1e9:,.2f}",
        ),
        ("in from callers, GB/s", lambda p: f"{p.ingress / 1e9:,.2f}"),
        ("out to callers, GB/s", lambda p: f"{p.egress / 1e9:,.2f}"),
        (
            "cost of a day, clicks affine, at the prices assumed",
            lambda p: f"{sum(p.cost.values()):,.0f}",
        ),
        *((f"of it {part}", cost_of(part)) for part in plans[0].cost),
        ("the same per 1,000 images", lambda p: f"{1000 * sum(p.cost.values()) / p.images:,.3f}"),
    ]
    head = [
        "| images a day |" + "".join(f" {p.images:.0e} |" for p in plans),
        "| --- |" + " ---: |" * len(plans),
    ]
    return "\n".join(
        [*head, *(f"| {name} |" + "".join(f" {of(p)} |" for p in plans) for name, of in rows)]
    )


def breaking(planned: Plan) -> str:
    """What is asked for more than one of it can give, the worst first."""
    lines = [
        f"| {limit.name} | {limit.of_one:,.2g} | {limit.then} |"
        for limit in planned.limits
        if limit.of_one > 0.5
    ]
    head = [
        f"At {planned.images:.0e} images a day:",
        "",
        "| one of these | is asked for, times | then |",
        "| --- | ---: | --- |",
    ]
    return "\n".join(
        [*head, *lines]
        if lines
        else [f"At {planned.images:.0e} images a day one of each is enough."]
    )


def main() -> None:
    assumed = yaml.safe_load((Path(__file__).parent / "assumptions.yaml").read_text())
    try:
        rates = decoder_rate(assumed, read_calibration(FOLDER / "calibration.json"))
        plans = [plan(images, assumed, rates) for images in SIZES]
    except (FileNotFoundError, ValueError) as problem:
        sys.exit(str(problem))
    each = f"One decoder: {rates(1.0):.0f} clicks a second if every image is ready, {rates(0.0):.0f} if none is."
    written = "\n\n".join([each, table(plans), *map(breaking, plans)])
    print(written)
    (FOLDER / "plan.md").write_text(written + "\n")
    (FOLDER / "plan.json").write_text(
        json.dumps([asdict(planned) for planned in plans], indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
