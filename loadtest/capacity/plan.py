"""Plans for 10^6, 10^8 and 10^9 images per day: `python -m loadtest.capacity.plan`. Under a minute.

Needs build/load/calibration.json from loadtest.capacity.calibrate. Values that cannot be measured
here come from assumptions.yaml. Prints the tables of docs/capacity.md as Markdown, and writes them
to build/load/plan.md and plan.json.
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
STEPS = 10  # shares of prepared images are rounded down to tenths, to save simulations


def decoder_rate(assumed: Assumptions, calibration: Calibration) -> RateOfOne:
    """Return a function from the share of prepared images to the clicks per second of a decoder.

    The rate is the highest one at which the p95 stays within the target.
    """
    system = System(threads=calibration.threads, together=False)
    target = assumed["demand"]["target_p95_ms"]

    @cache
    def rate(step: int) -> float:
        share = step / STEPS
        demand = Demand(
            1, settling=10, refining=Scenario().refining, resident=share, redis=1 - share
        )

        highest = rate_of_one(system, demand, target, calibration)
        if not highest:
            raise ValueError(
                f"a single click takes longer than {target:g} ms on this machine; "
                "raise target_p95_ms in assumptions.yaml"
            )
        return highest

    return lambda ready: rate(int(ready * STEPS + 1e-9))


def table(plans: list[Plan]) -> str:
    """Render a Markdown table with a row per quantity and a column per size."""

    def cost_of(part: str) -> Callable[[Plan], str]:
        return lambda p: f"{p.cost[part]:,.0f}"

    rows: list[tuple[str, Callable[[Plan], str]]] = [
        ("new images per second at the peak", lambda p: f"{p.encodes:,.0f}"),
        ("clicks per second at the peak", lambda p: f"{p.clicks:,.0f}"),
        ("GPUs", lambda p: f"{p.gpus:,}"),
        ("embedding replicas", lambda p: f"{p.replicas:,}"),
        ("decoders, round robin", lambda p: f"{p.decoders_in_turn:,}"),
        ("decoders, affine", lambda p: f"{p.decoders_affine:,}"),
        (
            "share of clicks with a prepared image, round robin / affine",
            lambda p: f"{p.ready_in_turn:.2f} / {p.ready_affine:.2f}",
        ),
        ("memory per decoder for prepared images, GB", lambda p: f"{p.ready_bytes / 1e9:,.1f}"),
        ("Redis memory, GB", lambda p: f"{p.redis_bytes / 1e9:,.0f}"),
        (
            "Redis shards, round robin / affine",
            lambda p: f"{p.redis_shards_in_turn:,} / {p.redis_shards_affine:,}",
        ),
        (
            "from Redis, GB/s, round robin / affine",
            lambda p: f"{p.redis_out_in_turn / 1e9:,.2f} / {p.redis_out_affine / 1e9:,.2f}",
        ),
        ("from callers, GB/s", lambda p: f"{p.ingress / 1e9:,.2f}"),
        ("to callers, GB/s", lambda p: f"{p.egress / 1e9:,.2f}"),
        (
            "cost per day, affine, at the assumed prices",
            lambda p: f"{sum(p.cost.values()):,.0f}",
        ),
        *((f"cost per day: {part}", cost_of(part)) for part in plans[0].cost),
        ("cost per 1,000 images", lambda p: f"{1000 * sum(p.cost.values()) / p.images:,.3f}"),
    ]

    head = [
        "| images per day |" + "".join(f" {p.images:.0e} |" for p in plans),
        "| --- |" + " ---: |" * len(plans),
    ]
    body = [f"| {name} |" + "".join(f" {value(p)} |" for p in plans) for name, value in rows]
    return "\n".join([*head, *body])


def scarce_resources(planned: Plan) -> str:
    """Render a Markdown table of resources near or beyond their limit, the scarcest first."""
    rows = [
        f"| {limit.name} | {limit.of_one:,.2g} | {limit.then} |"
        for limit in planned.limits
        if limit.of_one > 0.5
    ]
    if not rows:
        return f"At {planned.images:.0e} images per day one of each is enough."

    head = [
        f"At {planned.images:.0e} images per day:",
        "",
        "| resource | demand, in multiples of one | solution |",
        "| --- | ---: | --- |",
    ]
    return "\n".join([*head, *rows])


def main() -> None:
    assumed = yaml.safe_load((Path(__file__).parent / "assumptions.yaml").read_text())
    try:
        rates = decoder_rate(assumed, read_calibration(FOLDER / "calibration.json"))
        plans = [plan(images, assumed, rates) for images in SIZES]
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))

    summary = (
        f"One decoder: {rates(1.0):.0f} clicks per second if every image is prepared, "
        f"{rates(0.0):.0f} if none is."
    )
    text = "\n\n".join([summary, table(plans), *map(scarce_resources, plans)])

    print(text)
    (FOLDER / "plan.md").write_text(text + "\n")
    values = [asdict(planned) for planned in plans]
    (FOLDER / "plan.json").write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
