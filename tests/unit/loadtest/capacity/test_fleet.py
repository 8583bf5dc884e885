"""The search for the capacity, the plan for images per day, and the document."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from loadtest.capacity import document, fleet, measure

ASSUMED = yaml.safe_load((Path(measure.__file__).parent / "assumptions.yaml").read_text())


@pytest.mark.parametrize(("true", "first"), [(70, 35), (70, 200), (33, 40)])
def test_the_search_ends_just_below_the_highest_rate_that_holds(true: float, first: float) -> None:
    tried: list[float] = []

    def attempt(rate: float) -> bool:
        tried.append(rate)
        return rate <= true

    capacity = measure.find_capacity(attempt, first)

    assert true / measure.CLOSE <= capacity <= true
    assert len(tried) <= measure.MOST_STEPS


def test_the_capacity_is_zero_if_no_rate_holds() -> None:
    assert measure.find_capacity(lambda _: False, 10) == 0


def test_overload_exceeds_both_capacity_and_ceiling() -> None:
    assert measure.overload_rate(capacity=60, ceiling=70) == 120
    assert measure.overload_rate(capacity=30, ceiling=80) == 120


def test_round_robin_over_many_decoders_finds_no_prepared_image() -> None:
    assert fleet.ready_in_turn(10, 1) == pytest.approx(0.9)
    assert fleet.ready_in_turn(10, 10_000) == pytest.approx(0, abs=0.001)


def rate_of_one(ready: float) -> float:
    return 40 + 40 * ready


def test_a_plan_grows_with_the_images() -> None:
    small, large = (fleet.plan(images, ASSUMED, rate_of_one) for images in (1e6, 1e8))
    assert large.gpus == pytest.approx(100 * small.gpus, rel=0.2)
    assert small.redis_bytes == pytest.approx(1e6 * 0.7 * 0.75e6)
    assert large.decoders_in_turn > large.decoders_affine
    assert large.redis_out_in_turn > 5 * large.redis_out_affine


def test_the_cost_of_a_day_is_given_by_resource() -> None:
    small, large = (fleet.plan(images, ASSUMED, rate_of_one).cost for images in (1e8, 1e9))
    assert {part: large[part] / small[part] for part in small} == pytest.approx(
        dict.fromkeys(small, 10), rel=0.02
    )
    assert small["Redis"] == pytest.approx(24 * 0.005 * 1e8 * 0.7 * 0.75e6 / 2**30)


def test_enough_decoders_are_planned_for_the_share_of_prepared_images() -> None:
    planned = fleet.plan(1e8, ASSUMED, rate_of_one)
    assert planned.decoders_affine * rate_of_one(planned.ready_affine) >= planned.clicks
    assert planned.decoders_in_turn * rate_of_one(planned.ready_in_turn) >= planned.clicks


def test_the_scarcest_resource_comes_first() -> None:
    multiples = [limit.of_one for limit in fleet.plan(1e9, ASSUMED, rate_of_one).limits]
    assert multiples == sorted(multiples, reverse=True)
    assert multiples[0] > 1


def test_a_part_of_the_document_is_replaced_between_its_markers() -> None:
    text = "a\n<!-- plan -->\nold\n<!-- end -->\nb\n<!-- check -->\nkept\n<!-- end -->\n"
    assert document.put(text, "plan", "new") == text.replace("old", "\nnew\n")
    with pytest.raises(ValueError, match="other"):
        document.put(text, "other", "new")


def test_the_document_has_a_place_for_every_part() -> None:
    text = (Path(measure.__file__).parents[2] / document.DOCUMENT).read_text()
    for name in ("calibration", "capacity-1", "capacity-2", "check", "plan"):
        document.put(text, name, "part")
